"""Recipe files: TOML tables that become a model, data and a ``Recipe``; unknown and contradictory fields are named.

[model]      from = "FOLDER or GGUF"; or sizes, as config.json names them (mup: base_width, scale_emb, scale_depth)
[data]       shards = ["FOLDER or FILES"], held_out = [...]; for sft and lora: conversations = "FILE.jsonl"
[schedule]   name = "wsd" | "cosine" | "steplaw", and the fields of that schedule
[optimizer] [batch] [spikes]     fields of ``Optimizer``, ``BatchShape``, ``SpikeRule``
[run]        the other fields of ``Recipe``
[long]       sparse = {...} (InfLLM v2's fields), factor, context: LongRoPE from the model's own context
[lora]       fields of ``Lora``
"""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import InvalidParameter, WhimbrelError
from whimbrel.models.config import ModelConfig
from whimbrel.models.rope import logistic_factors
from whimbrel.train.lora import Lora
from whimbrel.train.parametrization import Optimizer, mup_config
from whimbrel.train.recipe import BatchShape, Recipe
from whimbrel.train.schedule import WSD, Cosine, Schedule, step_law
from whimbrel.train.spikes import SpikeRule

MODES = ("pretrain", "long", "sft", "lora")
Table = Mapping[str, Any]
_TABLES = {"model", "data", "schedule", "optimizer", "batch", "spikes", "run", "long", "lora"}
_SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings",
    "bos_token_id", "eos_token_id",
}  # fmt: skip
_WORDS = {"text": (str,), "a whole number": (int, int | None), "a number": (float, float | None)}
_MUP = {"base_width", "scale_emb", "scale_depth"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeFile:
    """A recipe file, read and checked as far as the file alone allows."""

    mode: str
    source: Path | None
    """a model to begin with"""
    config: ModelConfig | None
    """or the sizes of a new one"""
    shards: tuple[Path, ...]
    held_out: tuple[Path, ...]
    conversations: Path | None
    recipe: Recipe
    lora: Lora | None
    long: Table
    """the table [long]; ``long_config`` applies it"""


def read_recipe(path: str | Path, mode: str) -> RecipeFile:
    """Read a file for one of ``MODES``. Raises InvalidParameter that begins with the file's name and names the field."""
    file = Path(path)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"{file}: no recipe can be read here: {error}") from None
    try:
        return _parsed(data, mode, file.parent)
    except WhimbrelError as error:
        raise InvalidParameter(f"{file}: {error}") from None


def long_config(config: ModelConfig, table: Table) -> ModelConfig:
    """A dense model's configuration with LongRoPE up to ``context`` and block-sparse attention.

    LongRoPE's factors follow the logistic curve of MiniCPM4's, from 1 for the fastest pair to ``context`` / the model's
    own context for the slowest, and serve short contexts too: the model learns one rotation.
    """
    context = int(table.get("context", config.max_position_embeddings))
    original = config.max_position_embeddings
    if context < original:
        raise InvalidParameter(f"[long] context {context} is shorter than the model's own, {original}")
    if context > original:
        factor, pairs = context / original, config.head_dim // 2
        curve = logistic_factors(pairs, (factor + 1) / 2, (factor - 1) / 2, 12 / pairs)
        factors = tuple(float(value) for value in curve)
        rope = replace(
            config.rope, kind="longrope", short_factor=factors, long_factor=factors,
            original_max_position_embeddings=original,
        )  # fmt: skip
        config = replace(config, rope=rope, max_position_embeddings=context)
    if "sparse" in table:
        config = replace(config, sparse=_make(SparseConfig, table["sparse"], "long.sparse"))
    return config


def _parsed(data: Table, mode: str, folder: Path) -> RecipeFile:
    if mode not in MODES:
        raise InvalidParameter(f"mode {mode!r} is unknown; choose one of {', '.join(MODES)}")
    _known(data, _TABLES, "a recipe")
    for name, value in data.items():
        if not isinstance(value, dict):
            raise InvalidParameter(f"{name} is {value!r}, a table [{name}] was expected")
    if "schedule" not in data or "model" not in data or "data" not in data:
        raise InvalidParameter("the tables [model], [data] and [schedule] are needed")
    for name, modes in (("long", ("long",)), ("lora", ("lora",))):
        if name in data and mode not in modes:
            raise InvalidParameter(f"[{name}] contradicts train {mode}; use train {modes[0]}, or remove it")
    optimizer = _make(Optimizer, data.get("optimizer", {}), "optimizer")
    source, config = _model(data["model"], optimizer, mode, folder)
    places = data["data"]
    _known(places, {"conversations"} if mode in ("sft", "lora") else {"shards", "held_out"}, f"[data] of train {mode}")
    needed = "conversations" if mode in ("sft", "lora") else "shards"
    if needed not in places:
        raise InvalidParameter(f"[data] {needed} is missing")
    run = dict(data.get("run", {}))
    _known(run, {f.name for f in fields(Recipe)} - {"schedule", "optimizer", "batch", "spikes"}, "[run]")
    if "start" in run:
        run["start"] = folder / run["start"]
    batch = _make(BatchShape, data.get("batch", {}), "batch")
    recipe = Recipe(
        schedule=_schedule(data["schedule"], config, batch),
        optimizer=optimizer,
        batch=batch,
        spikes=_make(SpikeRule, data.get("spikes", {}), "spikes"),
        **run,
    )
    return RecipeFile(
        mode=mode,
        source=source,
        config=config,
        shards=_paths(places, "shards", folder),
        held_out=_paths(places, "held_out", folder),
        conversations=folder / places["conversations"] if "conversations" in places else None,
        recipe=recipe,
        lora=_make(Lora, data.get("lora", {}), "lora") if mode == "lora" else None,
        long=data.get("long", {}),
    )


def _model(table: Table, optimizer: Optimizer, mode: str, folder: Path) -> tuple[Path | None, ModelConfig | None]:
    if "from" in table:
        _known(table, {"from"}, "[model] with from")
        return folder / table["from"], None
    if mode != "pretrain":
        raise InvalidParameter(f"[model] from is missing: train {mode} begins with a model")
    mup = optimizer.parametrization == "mup"
    _known(table, _SIZES | (_MUP if mup else set()), "[model]")
    sizes = {key: value for key, value in table.items() if key in _SIZES}
    config = ModelConfig.from_hf({"model_type": "llama", "rms_norm_eps": 1e-5, **sizes})
    if not mup:
        return None, config
    width = table.get("base_width", optimizer.base_width)
    if width != optimizer.base_width:
        raise InvalidParameter(f"[model] base_width {width} contradicts [optimizer] base_width {optimizer.base_width}")
    scales = {key: float(table[key]) for key in ("scale_emb", "scale_depth") if key in table}
    return None, mup_config(config, width, **scales)


def _schedule(table: Table, config: ModelConfig | None, batch: BatchShape) -> Schedule:
    options = {key: value for key, value in table.items() if key != "name"}
    name = table.get("name")
    if name == "wsd":
        return WSD(**_checked(WSD, options, "schedule"))
    if name == "cosine":
        return Cosine(**_checked(Cosine, options, "schedule"))
    if name != "steplaw":
        raise InvalidParameter(f"[schedule] name is {name!r}; choose wsd, cosine or steplaw")
    _known(options, {"warmup", "total"}, "[schedule] steplaw")
    if config is None or not {"warmup", "total"} <= set(options):
        raise InvalidParameter("[schedule] steplaw needs warmup, total, and the sizes of a new model")
    table_size = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    tokens = options["total"] * batch.tokens
    return step_law(config.num_parameters() - table_size, tokens, warmup=options["warmup"], total=options["total"])


def _make(kind: Any, table: Any, name: str) -> Any:
    """A dataclass from a table."""
    return kind(**_checked(kind, table, name))


def _checked(kind: Any, table: Any, name: str) -> dict[str, Any]:
    """A dataclass's arguments from a table, lists as tuples. Unknown, missing and mistyped fields are named."""
    if not isinstance(table, dict):
        raise InvalidParameter(f"{name} is {table!r}, a table was expected")
    _known(table, {f.name for f in fields(kind)}, f"[{name}]")
    for f in fields(kind):
        value, needed = table.get(f.name), f.default is MISSING and f.default_factory is MISSING
        if value is None and needed:
            raise InvalidParameter(f"[{name}] {f.name} is missing")
        for types, word in ((str, "text"), ((bool, int), "a whole number"), ((bool, int, float), "a number")):
            if f.type in _WORDS[word] and value is not None and not isinstance(value, types):
                raise InvalidParameter(f"[{name}] {f.name} is {value!r}, {word} was expected")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _known(table: Table, names: set[str], where: str) -> None:
    if unknown := sorted(set(table) - names):
        raise InvalidParameter(f"{where} has no field {unknown[0]!r}; it has {', '.join(sorted(names))}")


def _paths(table: Table, name: str, folder: Path) -> tuple[Path, ...]:
    value = table.get(name, [])
    return tuple(folder / path for path in ([value] if isinstance(value, str) else value))
