"""Our filters inside other people's pipelines: a step of datatrove, a function for Spark's ``mapInPandas``.

Both take any ``filter(document) -> Keep | Drop(reason)``; what they need from datatrove or pandas is imported when it is used.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from whimbrel.data.document import Document, Drop, Filter, judge_all
from whimbrel.errors import InvalidParameter, MissingExtra

BATCH = 256


def datatrove_step(judge: Filter, *, keep_rejected: Any = None) -> Any:
    """A ``PipelineStep`` that drops what the filter drops, with datatrove's own statistics per reason.

    Edited texts and notes are taken over. ``keep_rejected``: a datatrove writer for what was dropped. Raises MissingExtra.
    """
    try:
        from datatrove.pipeline.base import PipelineStep
    except ImportError as error:
        raise MissingExtra("this step needs datatrove: `pip install datatrove`") from error

    title = f"whimbrel {type(judge).__name__}"

    class WhimbrelFilter(PipelineStep):  # type: ignore[misc]
        type = "filter"
        name = title

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
            for batch in _batches(data):
                documents = [Document(item.text, str(item.id), metadata=dict(item.metadata)) for item in batch]
                for item, verdict in zip(batch, judge_all(judge, documents), strict=True):
                    item.metadata.update(verdict.notes or {})
                    if isinstance(verdict, Drop):
                        self.stat_update(f"dropped: {verdict.reason}")
                        if keep_rejected is not None:
                            item.metadata["reason"] = verdict.reason
                            keep_rejected.write(item, rank)
                        continue
                    self.stat_update("forwarded")
                    item.text = item.text if verdict.text is None else verdict.text
                    yield item

    return WhimbrelFilter()


def spark_function(
    make: Callable[[], Filter], *, column: str = "text", notes: Sequence[str] = ()
) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """For ``frame.mapInPandas(spark_function(make), schema)``: kept rows, in order, with a column for each of ``notes``.

    ``make`` builds the filter once in each Python worker (a classifier is loaded there, not sent). A note that a filter does
    not give is null. Raises InvalidParameter, in the worker, when the column is missing.
    """

    def filter_frames(frames: Iterator[Any]) -> Iterator[Any]:
        judge = make()
        for frame in frames:
            if column not in frame.columns:
                raise InvalidParameter(
                    f"no column {column!r} in the data frame; it has {', '.join(map(str, frame.columns))}"
                )
            documents = [Document(text, str(at)) for at, text in enumerate(frame[column])]
            verdicts = judge_all(judge, documents)
            kept = [at for at, verdict in enumerate(verdicts) if not isinstance(verdict, Drop)]
            result = frame.iloc[kept].copy()
            texts = [getattr(verdicts[at], "text", None) for at in kept]
            result[column] = [
                documents[at].text if text is None else text for at, text in zip(kept, texts, strict=True)
            ]
            for name in notes:
                result[name] = [(verdicts[at].notes or {}).get(name) for at in kept]
            yield result

    return filter_frames


def _batches(data: Any) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in data or ():
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
