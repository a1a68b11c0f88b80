"""Seeds -> written documents -> checks. What passes can join the seed pool, for as many rounds as one likes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from whimbrel.data.document import Document, Drop, Keep, Verdict
from whimbrel.data.duplicates import copies, signature
from whimbrel.data.generation.checks import Checks
from whimbrel.data.generation.paradigms import Paradigm

Writer = Callable[[str], str]
"""A request in, an answer out: ``lambda request: llm.chat(request, max_tokens=2000).text``, or an ``Endpoint``"""
SEED_WORDS = 1200


def generate(
    seeds: Iterable[Document], paradigm: Paradigm, writer: Writer, checks: Checks | None = None
) -> Iterator[tuple[Document, Verdict]]:
    """A document for every seed, and what the checks say; raises what the writer raises."""
    checks = checks or Checks(paradigm)
    for seed in seeds:
        excerpt = " ".join(seed.text.split(" ")[:SEED_WORDS])
        text = writer(paradigm.ask(excerpt)).strip()
        name = hashlib.blake2b(
            f"{paradigm.name}\0{seed.id}".encode("utf-8", "surrogatepass"), digest_size=8
        ).hexdigest()
        document = Document(text, name, metadata={"paradigm": paradigm.name, "seed": seed.id})
        verdict = checks(document, seed.text)
        document.metadata.update(verdict.notes or {})
        yield document, verdict


def evolve(
    seeds: Sequence[Document], paradigms: Sequence[Paradigm], writer: Writer, checks: dict[str, Checks], rounds: int = 1
) -> Iterator[tuple[Document, Verdict]]:
    """Rounds in which what was kept becomes seeds of the next; near copies of anything in the pool are dropped.

    That guards against the pool's collapse onto a few texts, the risk that the report names. ``checks``: by paradigm.
    """
    pool = [signature(seed.text, "minhash") for seed in seeds]
    frontier = list(seeds)
    for index in range(rounds):
        fresh: list[Document] = []
        for paradigm in paradigms:
            for document, verdict in generate(frontier, paradigm, writer, checks.get(paradigm.name)):
                document.metadata["round"] = index
                if isinstance(verdict, Keep):
                    mine = signature(document.text, "minhash")
                    if _known(mine, pool):
                        yield document, Drop("near copy of a text in the pool")
                        continue
                    pool.append(mine)
                    fresh.append(document)
                yield document, verdict
        frontier = fresh


def _known(mine: NDArray[np.uint64], pool: Sequence[NDArray[np.uint64]]) -> bool:
    return bool(pool) and bool(copies([np.array(pool), mine[None]])[1][0])
