"""A side that says what it was told to."""

from collections.abc import Mapping, Sequence

from whimbrel.bench.side import Scores, Timing


class ScriptedSide:
    """Rates by setting: (prompt tokens/s, decoded tokens/s). Continues a prompt by counting on from its last id."""

    def __init__(self, rates: Mapping[str, tuple[float, float]]) -> None:
        self.rates = rates
        self.settings = tuple(rates)
        self.runs: list[tuple[str, tuple[int, ...]]] = []
        self.log: list[str] = []

    def describe(self) -> Mapping[str, object]:
        return {
            "weight_bytes_per_token": 1_000_000,
            "kv_bytes_per_token_of_context": 1000,
            "read_bandwidth": 1e9,
            "sparse_tokens": 6144,
            "kernel_bytes_per_token_of_context": 50.0,
        }

    def warm_up(self, setting: str) -> None:
        self.log.append(f"warm {setting}")

    def measure(self, setting: str, prompt: Sequence[int], decode: int) -> Timing:
        self.runs.append((setting, tuple(prompt)))
        prefill, decoding = self.rates[setting]
        return Timing(prefill=len(prompt) / prefill, decode=decode / decoding, decoded=decode, foreign_load=0.01)

    def tokenize(self, text: str) -> list[int]:
        return list(range(8))

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        return [prompt[-1] + 1 + i for i in range(count)]

    def score(self, token_ids: Sequence[int], first: int, top: int) -> Scores:
        places = token_ids[first:]
        return Scores(logprobs=(-1.0,) * len(places), top=tuple(((t, -1.0), (t + 1, -2.0)) for t in places))

    def close(self) -> None:
        self.log.append("closed")
