"""The miniature's longer context: documents of four lengths, two trained variants, losses by position; and drafts."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from miniature_reading import Reading
from torch import Tensor

from whimbrel.attention.sparse import SparseConfig
from whimbrel.formats.shards import ShardWriter, open_shards
from whimbrel.models.config import ModelConfig
from whimbrel.train import checkpoint
from whimbrel.train.parameters import trainable
from whimbrel.train.pretrain import load_checkpoint, train_model
from whimbrel.train.recipe import Recipe
from whimbrel.train.recipe_file import long_config

SPARSE = SparseConfig(window_size=128, topk=4, dense_len=512)
"""MiniCPM4's kernels and blocks; a query reads at most 6 blocks of 64: 384 tokens."""


class LongRun:
    """A decayed model of a short context, and what it becomes."""

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, Tensor], corpus: Path, folder: Path, context: int
    ) -> None:
        self.config, self.tensors, self.folder = config, tensors, folder
        self.corpus, self.context = corpus, context
        self.bounds = tuple(context * part // 4 for part in (1, 2, 3))
        """classes of lengths, of which every step sees equally many rows"""

    def measure(self, recipe: Recipe) -> dict[str, Any]:
        """Train the dense and the sparse variant from the same weights; held-out losses of everything by position."""
        shard = self._documents()
        dense = long_config(self.config, {"context": self.context})
        sparse = long_config(self.config, {"context": self.context, "sparse": asdict(SPARSE)})
        results = {}
        for name, config in (("dense", dense), ("sparse", sparse)):
            start = trainable(self.tensors)
            results[name] = train_model(config, recipe, shard, self.folder / name, parameters=start)
        trained = {name: load_checkpoint(self.folder / name)[1] for name in results}
        edges = (0, self.config.max_position_embeddings, self.context // 2, self.context)
        variants = {
            "short model, its own rotation": (replace(self.config, max_position_embeddings=self.context), self.tensors),
            "short model, LongRoPE, not trained": (dense, self.tensors),
            "trained dense, read dense": (dense, trained["dense"]),
            "trained dense, read sparse": (sparse, trained["dense"]),
            "trained sparse, read sparse": (sparse, trained["sparse"]),
            "trained sparse, read dense": (dense, trained["sparse"]),
        }
        return {
            "edges": edges,
            "losses": {name: self._losses(*variant, edges, recipe.device) for name, variant in variants.items()},
            "tokens": results["sparse"].tokens,
            "seconds": {name: round(result.seconds) for name, result in results.items()},
            "read": SPARSE.num_blocks * SPARSE.block_size,
        }

    def _documents(self) -> Path:
        """Speeches cut into documents of the four classes' lengths in turn."""
        path, (source,) = self.folder / "train.shard", open_shards(self.corpus / "train.shard")
        if path.exists():
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        header = source.header
        lengths = cycle([*self.bounds, self.context])
        with ShardWriter(path, vocab_size=header.vocab_size, vocabulary=header.vocabulary) as writer:
            for index in range(len(source)):
                ids, at = source[index], 0
                while at + 1 < len(ids):
                    length = next(lengths) + 1  # the last token is only a target
                    writer.add(ids[at : at + length])
                    at += length
            writer.close()
        return path

    def _losses(
        self, config: ModelConfig, tensors: Mapping[str, Tensor], edges: tuple[int, ...], device: str
    ) -> list[float]:
        """Nats per token between these positions, over whole windows of held-out speeches."""
        reading = Reading(config, tensors, self.context, device)
        sums, windows = np.zeros(len(edges) - 1), 0
        for batch in reading.windows(self.corpus / "held_out.shard"):
            hidden = reading.hidden(batch)
            sums += [
                reading.loss(batch, hidden, (batch.positions >= first) & (batch.positions < end))
                for first, end in pairwise(edges)
            ]
            windows += 1
        return [float(value) for value in sums / (windows * np.diff(edges))]


def draft_acceptance(run: Path, held_out: Path, sequence: int, device: str) -> dict[str, Any]:
    """How often the head's first choice for the token after the next is what the trunk then chooses itself."""
    config, _, _ = load_checkpoint(run)
    progress = checkpoint.load(run / checkpoint.LATEST)
    assert progress is not None
    reading = Reading(config, progress.parameters, sequence, device)
    agreed = drafted = 0
    for batch in reading.windows(held_out):
        hidden = reading.hidden(batch)
        own, ahead = reading.choices(hidden), reading.choices(reading.drafts(batch, hidden))
        agreed += int((ahead[:-1] == own[1:]).sum())
        drafted += len(own) - 1
    return {"accepted": agreed / drafted, "drafted": drafted}
