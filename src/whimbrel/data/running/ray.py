"""The same tasks through Ray Data: on this machine or a cluster. Files must be where all its machines see them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from whimbrel.data.running.plan import Plan
from whimbrel.data.running.run import Task
from whimbrel.data.running.tally import Tally
from whimbrel.errors import MissingExtra


class RayRunner:
    """Tasks as rows of a Ray data set, executed by actors that load the plan once. ``workers``: how many actors."""

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        """``address``: of a running cluster; None starts Ray here, or joins what ``ray.init`` found. Raises MissingExtra."""
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise MissingExtra("running on Ray needs it: `pip install whimbrel[data,ray]`") from error
        if not ray.is_initialized():
            ray.init(
                address=address, num_cpus=None if address else workers, include_dashboard=False, log_to_driver=False
            )
        self._ray = ray
        self.workers = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)  # type: ignore[no-untyped-call]

    def map(
        self, task: Task, plan: Plan, arguments: Sequence[tuple[Any, ...]], on_done: Callable[[int, int], None]
    ) -> list[Tally]:
        """See ``Runner.map``."""
        ray = self._ray
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        shared = ray.put(list(arguments))
        rows = ray.data.from_items(
            [{"index": index} for index in range(len(arguments))], override_num_blocks=len(arguments)
        )
        done = rows.map_batches(
            _Actor,
            fn_constructor_kwargs={"task": task, "plan": ray.put(plan), "arguments": shared},
            batch_size=1,
            concurrency=min(self.workers, len(arguments)),
            num_cpus=1,
            zero_copy_batch=False,
        )
        results: dict[int, Tally] = {}
        for row in done.iter_rows():
            tally = Tally(**json.loads(row["tally"]))
            results[int(row["index"])] = tally
            on_done(int(row["index"]), tally.documents)
        return [results[index] for index in range(len(arguments))]


class _Actor:
    """One worker: the plan, with its classifier, is unpickled once."""

    def __init__(self, task: Task, plan: Any, arguments: Any) -> None:
        import ray

        self._task = task
        self._plan: Plan = ray.get(plan)
        self._arguments = ray.get(arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        index = int(batch["index"][0])
        tally = self._task(self._plan, *self._arguments[index])
        return {"index": [index], "tally": [json.dumps(asdict(tally))]}
