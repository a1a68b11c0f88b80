"""``whimbrel show``: what is known about one model."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.quantity import bytes_text, count_text
from whimbrel.cli.shell import verb


@verb()
def show(
    model: Annotated[str, typer.Argument(help="A model that is here, or a path.")],
    json: options.Json = False,
) -> None:
    """Show what is known about a model."""
    from whimbrel.models.attention import describe as in_words
    from whimbrel.zoo.plan import read_description
    from whimbrel.zoo.store import Store, resolve

    path = resolve(model)
    record = Store().get(model)
    described = read_description(path)
    config = described.config
    if json:
        fields: dict[str, Any] = {"path": str(path), "record": asdict(record) if record else None}
        terminal.result_json({**fields, "config": asdict(config), "parameters": config.num_parameters()})
        return
    lines = {"path": str(path)}
    if record:
        lines |= {"from": record.source, "size": bytes_text(record.bytes), "license": record.license or "not recorded"}
        lines |= {"revision": record.revision, "sha256": record.sha256}
    lines |= {
        "type": config.model_type,
        "parameters": count_text(config.num_parameters()),
        "weights": described.stored,
        "context": f"{config.max_position_embeddings:,} tokens",
        "attention": in_words(config.sparse),
        "layers": f"{config.num_hidden_layers} of {config.hidden_size} / {config.intermediate_size}",
        "heads": f"{config.num_attention_heads} queries, {config.num_key_value_heads} keys, of {config.head_dim}",
        "vocabulary": f"{config.vocab_size:,}",
        "unknown keys": ", ".join(config.unknown_keys),
    }
    for key, value in lines.items():
        if value:
            terminal.result(f"{key:<13}{value}")
