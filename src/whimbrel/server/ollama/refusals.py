"""What Ollama does with the network and the disk of its machine, and this server doesn't: it says what to do instead."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter

from whimbrel.server.documented import OLLAMA_ERRORS
from whimbrel.server.errors import ApiError

router = APIRouter()

_INSTEAD = {
    "pull": ("POST", "run `whimbrel pull NAME` on the server's machine; the model can be asked for at once"),
    "create": ("POST", "run `whimbrel pull NAME` on the server's machine, or name a file when you start the server"),
    "copy": ("POST", "a model has one name here, that of `whimbrel pull`"),
    "push": ("POST", "nothing is uploaded from here; `whimbrel pull` is the one way, and it leads to this machine"),
    "delete": ("DELETE", "run `whimbrel rm NAME` on the server's machine; `whimbrel pull` brings it back"),
}


def _refusal(name: str, instead: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise ApiError(404, f"/api/{name} is not served here: {instead}", code="unsupported")

    return refuse


for _name, (_method, _instead) in _INSTEAD.items():
    router.add_api_route(
        f"/api/{_name}",
        _refusal(_name, _instead),
        methods=[_method],
        name=_name,
        summary="Not served",
        description=f"Always an error: {_instead}.",
        responses=OLLAMA_ERRORS,
    )
