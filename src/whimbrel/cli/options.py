"""Options that several verbs share, written once: same flag, same meaning everywhere."""

from typing import Annotated, Any

import typer

from whimbrel.cli.constants import parse_constants
from whimbrel.cli.quantity import parse_quantities, parse_quantity
from whimbrel.errors import InvalidParameter


def quantity(text: str) -> int:
    """``32k`` as an option's value. Raises typer.BadParameter."""
    try:
        return parse_quantity(str(text))
    except InvalidParameter as error:
        raise typer.BadParameter(str(error)) from error


def quantities(text: str) -> list[int]:
    """``512,2k,8k`` as an option's value. Raises typer.BadParameter."""
    try:
        return parse_quantities(str(text))
    except InvalidParameter as error:
        raise typer.BadParameter(str(error)) from error


def constants(text: str) -> dict[str, int | bool | str]:
    """``topk=32,window_size=1k`` as an option's value. Raises typer.BadParameter."""
    try:
        return parse_constants(str(text))
    except InvalidParameter as error:
        raise typer.BadParameter(str(error)) from error


Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Name, org/name[:quant], or path.  [default: smollm2-135m]", show_default=False),
]
Context = Annotated[
    int | None,
    typer.Option("--context", "-c", parser=quantity, metavar="TOKENS", help="Room for prompt and answer, such as 32k."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", "-t", help="Threads of the kernels.  [default: one for each core]")
]
Weights = Annotated[
    str | None, typer.Option("--weights", help="Convert while loading: q4, q8, bf16 or f32.  [default: as stored]")
]
KVDtype = Annotated[
    str | None, typer.Option("--kv-dtype", help="Keys and values in the cache: bf16 or q8.  [default: bf16]")
]
Attention = Annotated[
    str | None,
    typer.Option("--attention", help="auto, dense or sparse.  [default: auto, as the model is marked]"),
]
Sparse = Annotated[
    Any | None,
    typer.Option(
        "--sparse",
        parser=constants,
        metavar="NAME=VALUE,...",
        help="Constants of sparse attention, such as topk=32,window_size=1k,dense_len=4k.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
System = Annotated[str | None, typer.Option("--system", "-s", help="System message before the conversation.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", "-n", parser=quantity, metavar="TOKENS", help="Longest answer.")
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temp", "--temperature", help="0 always takes the likeliest token.  [default: the model's own, or 0]"
    ),
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Keep the k likeliest tokens.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Keep the likeliest tokens that add up to p.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Drop tokens below this share of the likeliest one.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1: repeat less.  [default: the model's own, or 1]")
]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same text.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End the answer before this text; may be repeated.")]
Schema = Annotated[
    str | None,
    typer.Option("--schema", metavar="FILE|JSON", help="Answer in JSON that is valid under this JSON Schema."),
]
Regex = Annotated[
    str | None, typer.Option("--regex", metavar="PATTERN", help="Answer with text that this expression matches.")
]
Choices = Annotated[
    str | None, typer.Option("--choices", metavar="A,B,...", help="Answer with one of these texts, and nothing else.")
]
