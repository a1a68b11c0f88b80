"""A small dense model learns to read sparsely: InfLLM v2 on long retrieval, within an hour of one CPU core.

1. *dense*: a Llama of 4 layers learns language (Python source) and retrieval, from 63 to 2,048 tokens;
2. *sparse*: the same weights go on, first dense while semantic kernels learn what attention reads, then with 6 of 32
   blocks (19%) visible, chosen by the kernels;
3. measured: answers on a grid of length x depth and perplexity, at 1, 2 and 4 times the trained length:
   dense before, sparse without training, sparse after, dense after.

    python recipes/infllm_v2_retrieval_cpu.py /tmp/run            # goes on where it was stopped
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from retrieval_text import VOCAB_SIZE, Ids, Sequences, Shape, draw, standard_library
from torch import Tensor
from torch.nn.functional import cross_entropy

from whimbrel.attention.sparse import SparseConfig
from whimbrel.models.config import ModelConfig
from whimbrel.models.rope import RopeConfig, RopeTable, inverse_frequencies, rope_table
from whimbrel.train import network
from whimbrel.train.loop import Losses, Run, train
from whimbrel.train.ops import training_ops
from whimbrel.train.parameters import Parameters, random_parameters
from whimbrel.train.schedule import WSD
from whimbrel.train.selection_loss import SelectionLoss

TRAINED = 2048
REACH = 4 * TRAINED
SPARSE = SparseConfig(topk=5, window_size=64, init_blocks=1, dense_len=-1)
"""6 blocks: the first, the own one, the one before, and 3 of free choice; 6 of 32 is 19% at the trained length"""


SEQUENCES = 6
"""measured at 2 and 4 times the trained length, twice as many at the trained length; 32 questions each"""


@dataclass(frozen=True, slots=True)
class Phase:
    """So many steps with batches of one shape and one kind of attention."""

    steps: int
    shape: Shape
    sparse: SparseConfig | None = None
    selection_weight: float = 0.0
    """how much the selection loss counts; 0: it is not computed"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One training run: a schedule over phases."""

    name: str
    phases: tuple[Phase, ...]
    peak: float
    warmup: int
    decay: float = 0.2
    """the share of the steps in which the learning rate falls"""

    @property
    def schedule(self) -> WSD:
        """Warmup, stable, decay."""
        total = sum(phase.steps for phase in self.phases)
        return WSD(peak=self.peak, warmup=self.warmup, total=total, decay=round(self.decay * total))

    def phase(self, step: int) -> Phase:
        """What a step belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise ValueError(f"stage {self.name} has no step {step} behind its last")


def model_config() -> ModelConfig:
    """1.1 million parameters, shaped like a small Qwen2. theta is large, and positions reach 4 times the trained length (see ``Shape.reach``)."""
    return ModelConfig(
        model_type="qwen2",
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        rms_norm_eps=1e-5,
        max_position_embeddings=REACH,
        rope=RopeConfig(theta=1e7),
        tie_word_embeddings=True,
        attention_bias=True,
    )


class Trainee:
    """A model, its parameters, and the text it learns from."""

    def __init__(self, config: ModelConfig, parameters: Parameters, text: Ids) -> None:
        self.config, self.parameters, self.text = config, parameters, text
        self.ops = training_ops()
        self.rope: RopeTable = rope_table(config, REACH)

    def step_losses(self, stage: Stage, step: int) -> Losses:
        """Language on text and answers count the same."""
        phase = stage.phase(step)
        batch = draw(self.text, phase.shape, (sum(stage.name.encode()), step))
        config, ops, watcher = replace(self.config, sparse=phase.sparse), self.ops, None
        if phase.selection_weight:
            watcher = SelectionLoss(_watched(batch, step), SPARSE)
            ops = watcher.watch(ops)
        hidden = network.hidden_states(config, self.parameters, ops, self.rope, batch.token_ids, batch.positions)
        losses, answers, right = _losses(config, self.parameters, self.ops, hidden, batch)
        text, answer = losses[~answers].mean(), losses[answers].mean()
        named = {"loss": text + answer, "text": text, "answer": answer, "right": right.float().mean()}
        if watcher is not None:
            named["selection"] = watcher.total()
            named["loss"] = named["loss"] + phase.selection_weight * named["selection"]
        return named


def _watched(batch: Sequences, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows [S, 64] for the selection loss: 32 questions, and 32 others behind the first blocks."""
    rng = np.random.default_rng(step)
    first = SPARSE.num_blocks * SPARSE.block_size
    rows = [
        np.concatenate([
            rng.choice(np.flatnonzero(asked), 32, replace=False),
            rng.integers(first, len(asked), 32),
        ])
        for asked in batch.is_answer
    ]  # fmt: skip
    return np.stack(rows)


def _losses(
    config: ModelConfig, tensors: Mapping[str, Tensor], ops: Any, hidden: Tensor, batch: Sequences
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rows whose next token can be known: cross entropy [R], is it an answer [R]; is the answer right [answers]."""
    known = torch.from_numpy(batch.is_text | batch.is_answer)
    targets = torch.from_numpy(batch.targets)[known].long()
    answers = torch.from_numpy(batch.is_answer)[known]
    logits = network.scores(config, tensors, ops, hidden[known])
    return cross_entropy(logits, targets, reduction="none"), answers, logits[answers].argmax(-1) == targets[answers]


@torch.no_grad()
def measure(
    trainee: Trainee, sparse: SparseConfig | None, text: Ids, length: int, sequences: int, *, seed: int = 7
) -> dict[str, Any]:
    """Answers by depth and perplexity of held-out text, one sequence at a time; the same for every kind of attention."""
    config = replace(trainee.config, sparse=sparse)
    right, depths, losses, late = [], [], [], []
    for index in range(sequences):
        batch = draw(text, Shape(length, 1, (length // 64, length // 64), min(32, length // 64)), (seed, length, index))
        hidden = network.hidden_states(
            config, trainee.parameters, trainee.ops, trainee.rope, batch.token_ids, batch.positions
        )
        loss, answers, hits = _losses(config, trainee.parameters, trainee.ops, hidden, batch)
        right.append(hits.numpy())
        depths.append(batch.depths[0])
        language = loss[~answers].numpy()
        losses.append(language)
        late.append(language[len(language) // 2 :])
    hit, depth = np.concatenate(right), np.concatenate(depths)
    cells = [hit[(depth * 10).astype(int).clip(0, 9) == cell] for cell in range(10)]
    return {
        "length": length,
        "blocks": None if sparse is None else sparse.num_blocks,
        "visible_at_end": 1.0 if sparse is None else round(min(1.0, sparse.num_blocks * sparse.block_size / length), 4),
        "answers": len(hit),
        "right": round(float(hit.mean()), 4),
        "right_by_depth": [round(float(cell.mean()), 3) if len(cell) else None for cell in cells],
        "perplexity": round(float(np.exp(np.concatenate(losses).mean())), 4),
        "perplexity_second_half": round(float(np.exp(np.concatenate(late).mean())), 4),
    }


def wider(times: int) -> SparseConfig:
    """The same share of blocks at ``times`` the trained length."""
    blocks = SPARSE.num_blocks * times
    return replace(SPARSE, topk=blocks - SPARSE.local_blocks)


def measure_all(
    trainee: Trainee, text: Ids, name: str, folder: Path, *, sequences: int = SEQUENCES
) -> dict[str, dict[str, Any]]:
    """Dense and the same share at 1, 2 and 4 times the trained length; at 4 times also the same number of blocks."""
    results = {}
    for times in (1, 2, 4):
        kinds = {"dense": None, "sparse 19%": wider(times)} | ({"sparse 6 blocks": SPARSE} if times == 4 else {})
        for kind, sparse in kinds.items():
            path = folder / f"measured-{name}-{times}x-{kind.replace(' ', '-').replace('%', '')}.json"
            if not path.exists():  # a recipe that was stopped does not measure again
                count = sequences * (2 if times == 1 else 1)
                path.write_text(json.dumps(measure(trainee, sparse, text, TRAINED * times, count)))
            results[f"{times}x {kind}"] = json.loads(path.read_text())
            print(f"{name} {times}x {kind}: {json.dumps(results[f'{times}x {kind}'])}", flush=True)
    return results


@torch.no_grad()
def begin_with_induction(config: ModelConfig, parameters: Parameters, *, seed: int = 1) -> None:
    """Let one key head of layer 0 begin as "the token before", and one of layer 1 as "where was this token before?".

    Finding these two takes a small model longer than this recipe has (800 steps of 2,000 tokens did not), and how dense
    models learn to retrieve is not the question here. All of it is trained like the rest.

    Layer 0, by biases: query R(-1) c and key c score sum c^2 cos((distance - 1) f_i), greatest at distance 1; what it
    reads, B n, is written to the subspace of U. Layer 1: queries are B n, keys U n, in the pairs that turn slowly.
    """
    hidden, d, half = config.hidden_size, config.head_dim, config.head_dim // 2
    names = config.family.hf_layer_names
    tensor = {(field, layer): parameters[names[field].format(layer)] for field in names for layer in (0, 1)
              if names[field].format(layer) in parameters}  # fmt: skip
    frequency = torch.from_numpy(inverse_frequencies(config.rope, d, REACH, REACH)).float()
    slow = torch.nonzero(frequency < 2 / REACH)[:, 0]
    slow = torch.cat([slow, slow + half])
    draw_ = torch.Generator().manual_seed(seed)
    read = torch.randn(d, hidden, generator=draw_) * hidden**-0.5
    written = torch.linalg.qr(torch.randn(hidden, d, generator=draw_)).Q.T
    sharp, pairs = 8.0, 8
    heads = config.num_attention_heads // config.num_key_value_heads
    for layer in (0, 1):
        tensor["q_proj", layer][: heads * d] = 0
        tensor["k_proj", layer][:d] = 0
    tensor["o_proj", 0].mul_(0.2)
    tensor["down_proj", 0].mul_(0.2)
    tensor["k_bias", 0][:pairs] = sharp
    tensor["v_proj", 0][:d] = read
    tensor["k_proj", 1][slow] = 2.0 * written[: len(slow)]
    for head in range(heads):
        rows = slice(head * d, (head + 1) * d)
        tensor["q_bias", 0][rows][:pairs] = sharp * frequency[:pairs].cos()
        tensor["q_bias", 0][rows][half : half + pairs] = -sharp * frequency[:pairs].sin()
        tensor["o_proj", 0][:, rows] = written.T / 16
        tensor["q_proj", 1][rows][slow] = 2.0 * read[: len(slow)]


def infllm_v2_retrieval_cpu(folder: Path, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """Train the stages: the first from random weights, each other from the first one's result; then measure each."""
    learn, held_out = standard_library(folder / "data")
    config = model_config()
    start = random_parameters(config)
    begin_with_induction(config, start)
    measured = {}
    for index, stage in enumerate(stages):
        parameters = start if index == 0 else {n: torch.nn.Parameter(t.detach().clone()) for n, t in start.items()}
        trainee = Trainee(config, parameters, learn)
        _train(trainee, stage, folder)
        measured[stage.name] = measure_all(trainee, held_out, stage.name, folder)
    return {"sparse": SPARSE.to_hf(), "measured": measured, "stages": [_history(stage, folder) for stage in stages]}


def _train(trainee: Trainee, stage: Stage, folder: Path) -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # 5 times faster where the CPU has AMX
    run = Run(folder=folder / stage.name, schedule=stage.schedule, save_every=50)
    train(trainee.parameters, lambda step: trainee.step_losses(stage, step), run)
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"


def _history(stage: Stage, folder: Path) -> dict[str, Any]:
    """Steps, tokens, and the log's last line."""
    lines = (folder / stage.name / "log.jsonl").read_text().splitlines()
    tokens = sum(phase.steps * phase.shape.length * phase.shape.sequences for phase in stage.phases)
    return {"stage": stage.name, "steps": stage.schedule.total, "tokens": tokens, "last": json.loads(lines[-1])}


LONG = Shape(TRAINED, 2, (32, 48), 32, REACH - TRAINED)
DENSE = Stage(
    "dense",
    (Phase(150, Shape(126, 16, (8, 16), 8)), Phase(60, Shape(512, 8, (16, 32), 16, 1024)), Phase(150, LONG)),
    peak=3e-3,
    warmup=30,
)
GUIDED = Stage(
    "sparse-guided",
    (Phase(60, LONG, selection_weight=4.0), Phase(170, LONG, sparse=SPARSE, selection_weight=4.0)),
    peak=2e-3,
    warmup=10,
    decay=0.35,
)
"""First attention stays dense and only the kernels learn what it reads; then the model lives with what they choose."""
PLAIN = Stage("sparse", (Phase(60, LONG, sparse=SPARSE),), peak=2e-3, warmup=10)
"""InfLLM v2 as published: no loss but the model's own."""


def main() -> None:
    """Run the recipe and write ``report.json`` into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where checkpoints, logs and results go; an interrupted run goes on")
    parser.add_argument("--plain", action="store_true", help="also train without the selection loss, to compare")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    report = infllm_v2_retrieval_cpu(asked.folder, (DENSE, GUIDED, *((PLAIN,) if asked.plain else ())))
    (asked.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
