"""The modes of ``whimbrel train``: from a recipe file to a trained and exported model."""

from collections.abc import Callable
from pathlib import Path

from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.models.config import ModelConfig
from whimbrel.models.loading import load_text_side
from whimbrel.train import checkpoint
from whimbrel.train.export import export_hub, import_model
from whimbrel.train.lora import Lora, export_adapter, merged
from whimbrel.train.parameters import Parameters
from whimbrel.train.pretrain import TrainResult, load_checkpoint, train_model
from whimbrel.train.recipe_file import RecipeFile, long_config
from whimbrel.train.reporting import ProgressLine, TensorBoard, flops_per_token, matmul_peak
from whimbrel.train.sft import read_conversations, write_conversations


def run_recipe(
    asked: RecipeFile, folder: str | Path, *, write: Callable[[str], None], tensorboard: bool = False
) -> TrainResult:
    """Train as the recipe says, in ``folder``; ``write`` gets the progress lines."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config, parameters = _begin(asked)
    sequence = asked.recipe.batch.sequence
    if sequence > config.max_position_embeddings:
        raise InvalidParameter(
            f"sequence {sequence} is longer than the model's context, {config.max_position_embeddings}"
        )
    shards = [*asked.shards]
    if asked.conversations is not None and asked.source is not None:
        shards = [_conversations(asked.conversations, asked.source, target)]
    watchers = [
        ProgressLine(
            write,
            total=asked.recipe.schedule.total,
            tokens=asked.recipe.batch.tokens,
            flops=flops_per_token(config, sequence),
            peak=matmul_peak(asked.recipe.device, asked.recipe.precision),
        )
    ]
    progress = checkpoint.load(target / checkpoint.LATEST)
    done = 0 if progress is None else progress.step
    boards = [TensorBoard(target / "tensorboard", done)] if tensorboard else []
    try:
        return train_model(
            config,
            asked.recipe,
            shards,
            target,
            held_out=list(asked.held_out) or None,
            watchers=[*watchers, *boards],
            parameters=parameters,
            lora=asked.lora,
        )
    finally:
        for board in boards:
            board.close()


def export_run(asked: RecipeFile, run: str | Path, folder: str | Path, tokenizer: Path | None, dtype: str) -> Path:
    """The Hub's layout of a run's latest checkpoint; LoRA's changes are merged. The tokenizer defaults to the base's."""
    config, tensors, _ = load_checkpoint(run)
    text = tokenizer or (asked.source if asked.source is not None and asked.source.is_dir() else None)
    if asked.lora is not None and asked.source is not None:
        base = import_model(asked.source)[1]
        tensors = {name: tensor.detach() for name, tensor in merged(base, tensors, asked.lora).items()}
    return export_hub(config, tensors, folder, tokenizer=text, dtype=dtype)


def export_lora(asked: RecipeFile, run: str | Path, folder: str | Path) -> Path:
    """The changes alone, as the peft library reads them."""
    if asked.lora is None or asked.source is None:
        raise UsageError("only train lora makes adapters; export the whole model")
    lora: Lora = asked.lora
    return export_adapter(load_checkpoint(run)[1], lora, folder, str(asked.source))


def _begin(asked: RecipeFile) -> tuple[ModelConfig, Parameters | None]:
    if asked.source is None:
        assert asked.config is not None
        return asked.config, None
    config, parameters = import_model(asked.source)
    return (long_config(config, asked.long) if asked.mode == "long" else config), parameters


def _conversations(path: Path, source: Path, folder: Path) -> Path:
    """The shard of a file of conversations, made once per run."""
    shard = folder / "conversations.shard"
    text = load_text_side(source)
    if text.chat_template is None:
        raise UsageError(f"{source}: has no chat template, with which conversations could be written")
    if not shard.exists():
        write_conversations(read_conversations(path), shard, text.tokenizer, text.chat_template)
    return shard
