"""SmolLM2-135M learns to read sparsely: the queries and keys of a real model, on codes hidden in real text.

    ... text ... The code of Lisbon is 4821. ... text ... | The code of Lisbon is -> 4821

First attention stays dense and semantic kernels learn what it reads (``train.selection_loss``), then the blocks they
choose are all that is attended. Only q_proj and k_proj are trained. Made for hours of a CPU or ten minutes of a GPU; it
goes on where it was stopped, and ``--steps`` says how far.

    whimbrel pull smollm2-135m
    python recipes/infllm_v2_smollm2_135m.py /tmp/run path/to/SmolLM2-135M-Instruct.Q4_1.gguf --steps 200
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from infllm_v2_retrieval_cpu import SPARSE
from retrieval_text import Ids, modules
from torch.nn.functional import cross_entropy

from whimbrel.attention.sparse import SparseConfig
from whimbrel.models.loading import Model, load_model
from whimbrel.models.rope import rope_table
from whimbrel.train import network, packed_attention
from whimbrel.train.loop import Losses, Run, train
from whimbrel.train.ops import training_ops
from whimbrel.train.parameters import from_decoder
from whimbrel.train.schedule import WSD
from whimbrel.train.selection_loss import SelectionLoss

LENGTH, NOTES, DIGITS = 2048, 4, 4
CITIES = [
    "Lisbon",
    "Oslo",
    "Cairo",
    "Lima",
    "Quito",
    "Hanoi",
    "Delhi",
    "Seoul",
    "Tokyo",
    "Paris",
    "Rome",
    "Vienna",
    "Prague",
    "Warsaw",
    "Dublin",
    "Madrid",
    "Athens",
    "Sofia",
    "Tunis",
    "Accra",
    "Lagos",
    "Nairobi",
    "Boston",
    "Chicago",
    "Denver",
    "Dallas",
    "Havana",
    "Bogota",
    "Santiago",
    "Montreal",
]


class Adaptation:
    """A loaded model with trainable queries and keys, and the text that its questions are hidden in."""

    def __init__(self, model: Model, weight: float) -> None:
        self.model, self.weight = model, weight
        self.parameters = from_decoder(model.config, model.params)
        for name, tensor in self.parameters.items():
            tensor.requires_grad = "q_proj" in name or "k_proj" in name
        self.ops, self.rope = training_ops(), rope_table(model.config, 4 * LENGTH)
        learn, held_out = modules()
        self.learn, self.held_out = self._ids("\n".join(learn[:40])), self._ids("\n".join(held_out[:40]))

    def step_losses(self, step: int, warm: int) -> Losses:
        """One sequence; dense with the selection loss for the first ``warm`` steps, then sparse with it."""
        ids, answers = self.draw(self.learn, (1, step), LENGTH)
        rng, first = np.random.default_rng(step), SPARSE.num_blocks * SPARSE.block_size
        rows = np.concatenate([np.flatnonzero(answers), rng.integers(first, LENGTH, 32)])[None]
        watcher = SelectionLoss(rows, SPARSE)
        loss, right = self._run(ids, answers, None if step < warm else SPARSE, watcher.watch(self.ops))
        text, answer, selection = loss[~answers[:-1]].mean(), loss[answers[:-1]].mean(), watcher.total()
        total = text + answer + self.weight * selection
        return {"loss": total, "text": text, "answer": answer, "selection": selection, "right": right.float().mean()}

    @torch.no_grad()
    def measure(self, sparse: SparseConfig | None, length: int, sequences: int) -> dict[str, float]:
        """Whole codes that are right (each digit given those before it), single digits, and perplexity of the text."""
        codes, digits, losses = [], [], []
        for index in range(sequences):
            ids, answers = self.draw(self.held_out, (2, length, index), length)
            loss, right = self._run(ids, answers, sparse, self.ops)
            digits.append(right.float().mean().item())
            codes.append(right.view(-1, DIGITS).all(1).float().mean().item())
            losses.append(loss[~answers[:-1]].mean().item())
        perplexity = float(np.exp(np.mean(losses)))
        return {"codes": float(np.mean(codes)), "digits": float(np.mean(digits)), "perplexity": perplexity}

    def draw(self, text: Ids, seed: tuple[int, ...], length: int) -> tuple[Ids, Any]:
        """Ids [T], and which rows [T] predict a digit of an answer."""
        rng = np.random.default_rng(seed)
        names = rng.choice(CITIES, NOTES, replace=False)
        codes = [self._ids(f" {code}")[-DIGITS:] for code in rng.integers(10 ** (DIGITS - 1), 10**DIGITS, NOTES)]
        notes = [np.concatenate([self._ids(f"\nThe code of {name} is "), code, self._ids(".\n")])
                 for name, code in zip(names, codes, strict=True)]  # fmt: skip
        order = rng.permutation(NOTES)
        questions = [np.concatenate([self._ids(f"\nThe code of {names[i]} is "), codes[i]]) for i in order]
        words = length - sum(map(len, notes)) - sum(map(len, questions))
        first = int(rng.integers(0, len(text) - words))
        places = np.sort(rng.integers(0, words, NOTES))
        pieces = np.split(text[first : first + words], places)
        body = [part for piece, note in zip(pieces, [*notes, self._ids("")], strict=True) for part in (piece, note)]
        answers, end = np.zeros(length, bool), length
        for question in reversed(questions):
            answers[end - DIGITS - 1 : end - 1] = True
            end -= len(question)
        return np.concatenate([*body, *questions]).astype(np.int32), answers

    def _run(self, ids: Ids, answers: Any, sparse: SparseConfig | None, ops: Any) -> tuple[Any, Any]:
        """Cross entropy of each next token [T - 1], and which digits are right."""
        config, positions = replace(self.model.config, sparse=sparse), np.arange(len(ids), dtype=np.int32)[None]
        hidden = network.hidden_states(config, self.parameters, ops, self.rope, ids[None], positions)[0, :-1]
        logits = network.scores(config, self.parameters, self.ops, hidden)
        targets, rows = torch.from_numpy(ids[1:]).long(), torch.from_numpy(answers[:-1])
        return cross_entropy(logits, targets, reduction="none"), logits[rows].argmax(-1) == targets[rows]

    def _ids(self, text: str) -> Ids:
        return np.asarray(self.model.tokenizer.encode(text, add_special=False), np.int32)


def infllm_v2_smollm2_135m(folder: Path, checkpoint: Path, *, steps: int, sequences: int) -> dict[str, Any]:
    """Measure, train ``steps`` steps (half of them dense), measure again. Returns the report."""
    adaptation, report = Adaptation(load_model(checkpoint), weight=4.0), {"steps": steps, "sequences": sequences}
    schedule = WSD(peak=3e-4, warmup=min(5, steps // 4), total=steps, decay=steps // 5)
    run = Run(folder=folder / "smollm2", schedule=schedule, log_every=1, save_every=10, weight_decay=0.0)
    packed_attention.MASKED = 0  # 9 heads x 30 layers of whole score matrices would not fit
    for moment in ("before", "after"):
        if moment == "after":
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
            train(adaptation.parameters, lambda step: adaptation.step_losses(step, steps // 2), run)
        for kind, sparse in {"dense": None, "sparse": SPARSE}.items():
            report[f"{kind} {moment}"] = adaptation.measure(sparse, LENGTH, sequences)
            print(kind, moment, report[f"{kind} {moment}"], flush=True)
    return report


def main() -> None:
    """Run the recipe and write ``smollm2.json`` into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoint", type=Path, help="GGUF file or Hugging Face folder of SmolLM2-135M")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sequences", type=int, default=16, help="how many are measured, 4 codes each")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    report = infllm_v2_smollm2_135m(asked.folder, asked.checkpoint, steps=asked.steps, sequences=asked.sequences)
    (asked.folder / "smollm2.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
