"""``whimbrel data score``: write every document with its score; thresholds are chosen later."""

from whimbrel.cli import data, options
from whimbrel.cli.data_filter import quality
from whimbrel.cli.shell import verb


@verb("score", group=data.group)
def score(
    inputs: data.Inputs,
    output: data.Output,
    classifier: data.Classifier,
    tokenizer: data.Tokenizer,
    label: data.Positive = "pos",
    format: data.Format = "jsonl.zst",
    column: data.Column = "text",
    kind: data.Kind = None,
    workers: data.Workers = None,
    runner: data.RunnerName = "local",
    ray_address: data.RayAddress = None,
    strict: data.Strict = False,
    json: options.Json = False,
) -> None:
    """Add each document's quality, 0 to 1, to its line."""
    from whimbrel.data.reading.files import find
    from whimbrel.data.running.plan import Plan

    plan = Plan(
        inputs=tuple(find(inputs, kind)),
        output=output,
        filters=(quality(classifier, tokenizer, label, None),),
        column=column,
        format=format,
        strict=strict,
    )
    data.tell(data.execute(plan, runner, workers, ray_address), output, json)
