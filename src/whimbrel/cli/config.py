"""``whimbrel config``: which settings hold, and where they come from."""

from dataclasses import asdict

from whimbrel.cli import options, terminal
from whimbrel.cli.shell import verb


@verb()
def config(json: options.Json = False) -> None:
    """Show settings and where they come from.

    A flag wins over the environment, whimbrel.toml in this folder, the user's config.toml, and the model's own
    generation config.
    """
    from whimbrel.cli.settings import KEYS, PROJECT_FILE, settings, user_file
    from whimbrel.zoo.store import data_folder

    found = settings()
    files = {"project": str(PROJECT_FILE.absolute()), "user": str(user_file()), "data": str(data_folder())}
    if json:
        terminal.result_json({"settings": [asdict(setting) for setting in found.values()], "files": files})
        return
    rows = [(key, str(found[key].value), found[key].origin) if key in found else (key, "-", "default") for key in KEYS]
    terminal.table(("setting", "value", "from"), rows)
    terminal.note("\n" + "\n".join(f"{name + ':':<9}{path}" for name, path in files.items()))
