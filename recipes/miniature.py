"""The system in miniature, of any size: the stages that ``miniature_cpu.py`` and ``miniature_h200.py`` run.

A model of MiniCPM4's architecture (muP) and a BPE of its own are trained on presidents' speeches: stable, decay, a cosine
beside them, a longer context with InfLLM v2, multi-token prediction, and a supervised task. Every stage leaves
``results/NAME.json`` and is skipped where that is; a stage that was stopped goes on where it was.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from miniature_eras import TEMPLATE, right_answers, write_task
from miniature_long import LongRun, draft_acceptance
from miniature_reading import Reading
from miniature_report import write_report
from miniature_text import fetch

from whimbrel.models.config import ModelConfig
from whimbrel.train.export import export_hub
from whimbrel.train.parameters import Parameters, trainable
from whimbrel.train.parametrization import Optimizer, mup_config
from whimbrel.train.pretrain import TrainResult, load_checkpoint, train_model
from whimbrel.train.recipe import BatchShape, Recipe
from whimbrel.train.schedule import WSD, Cosine, Schedule
from whimbrel.tunnel.corpus import END, prepare

STAGES = ("data", "stable", "cosine", "decays", "long", "mtp", "sft", "export")
BASE_WIDTH = 256
PEAK = 1e-2
"""MiniCPM's learning rate at its base width; the later stages take a part of it"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Of the model and of the runs; steps of ``rows`` x ``sequence`` tokens unless a longer context is said."""

    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    vocab_size: int = 4096
    sequence: int = 512
    rows: int = 8
    steps: int = 900
    earlier: tuple[int, ...] = (300, 500, 700)
    """runs that end about here, by decays of a tenth of their tokens from the one stable run"""
    keep_every: int = 50
    """steps between the stable run's checkpoints"""
    context: int = 2048
    """what the long stage reaches"""
    long_rows: int = 4
    """of its steps, a quarter of them for each class of lengths, and of the supervised stage's"""
    long_steps: int = 40
    sft_steps: int = 100
    peak: float = 7e-3
    """of the cosine; this and the stable run's are the best of five (``miniature_schedules.py``, docs/miniature.md)"""
    rate: float = 5e-3
    """of the stable run: a constant rate wants to be lower than a cosine's peak"""
    decay_kind: str = "sqrt"
    decay_floor: float = 0.0
    """of the rate, where its decay ends"""
    precision: str = "fp32"
    device: str = "cpu"
    mtp: float = 0.3

    def shorter(self, steps: int) -> "Size":
        """The same stages in proportion, to try them out."""
        share = steps / self.steps

        def few(number: int) -> int:
            return max(2, round(number * share))

        return replace(
            self, steps=steps, earlier=(steps // 2,), keep_every=max(1, steps // 18),
            long_steps=few(self.long_steps), sft_steps=few(self.sft_steps),
        )  # fmt: skip

    @property
    def warmup(self) -> int:
        """Of the pre-training runs."""
        return max(1, self.steps // 22)

    @property
    def decay(self) -> int:
        """A tenth."""
        return max(1, self.steps // 10)

    def wsd(self, total: int, decay: int, warmup: int | None = None) -> WSD:
        """The stable run's schedule for so many steps in all."""
        warmup = self.warmup if warmup is None else warmup
        return WSD(
            peak=self.rate, warmup=warmup, total=total, decay=decay, kind=self.decay_kind, floor=self.decay_floor
        )

    def model(self) -> ModelConfig:
        """Grouped keys and values as MiniCPM4 has them, and its scalings."""
        plain = ModelConfig(
            model_type="llama",
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.hidden_size * 5 // 2,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.hidden_size // self.num_attention_heads,
            rms_norm_eps=1e-5,
            max_position_embeddings=self.sequence,
            tie_word_embeddings=True,
        )
        return mup_config(plain, base_width=BASE_WIDTH)


class Miniature:
    """The stages of one run."""

    def __init__(self, folder: Path, size: Size, *, text: Path | None = None, speeches: Path | None = None) -> None:
        """``text``: a .jsonl to train on in place of the speeches, which are fetched where no file of them is given."""
        self.text, self.given_speeches = text, speeches
        self.folder, self.size, self.corpus = folder, size, folder / "corpus"
        self.train_shard, self.held_out = self.corpus / "train.shard", self.corpus / "held_out.shard"

    def run(self, wanted: list[str]) -> None:
        """The wanted stages, in order, and the report of what is there."""
        stages: dict[str, Callable[[], dict[str, Any]]] = {name: getattr(self, name) for name in STAGES}
        for name in wanted:
            path = self.folder / "results" / f"{name}.json"
            if path.exists():
                continue
            print(f"{name}: begun", flush=True)
            started = time.perf_counter()
            found = stages[name]()
            found["stage_seconds"] = round(time.perf_counter() - started)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {found}", flush=True)
        print(write_report(self.folder, self.size.model().num_parameters()))

    def data(self) -> dict[str, Any]:
        """Text, its BPE, and shards; a few documents are held out."""
        held_out_tokens = 16 * self.size.context
        prepare(
            self.text or self._speeches(),
            self.corpus,
            vocab_size=self.size.vocab_size,
            held_out_tokens=held_out_tokens,
        )
        return {"train_bytes": self.train_shard.stat().st_size}

    def stable(self) -> dict[str, Any]:
        """Warmup, a constant rate, and the last tenth decays. Checkpoints where the earlier decays begin are kept."""
        size = self.size
        schedule = size.wsd(size.steps, size.decay)
        return told(self._train("stable", schedule, keep_every=size.keep_every))

    def cosine(self) -> dict[str, Any]:
        """The same steps under a cosine."""
        return told(self._train("cosine", Cosine(peak=self.size.peak, warmup=self.size.warmup, total=self.size.steps)))

    def decays(self) -> dict[str, Any]:
        """What the stable run would have come to, had it ended earlier."""
        found: dict[str, Any] = {}
        for total in self.size.earlier:
            decay = max(1, total // 10)
            start = max(step for step in range(0, total - decay + 1, self.size.keep_every))
            schedule = self.size.wsd(start + decay, decay)
            kept = self.folder / "stable" / f"step-{start:08d}.pt"
            found[str(start + decay)] = told(self._train(f"decay-{total}", schedule, start=kept))
        return found

    def long(self) -> dict[str, Any]:
        """The decayed model reads further: LongRoPE, once with dense attention and once with InfLLM v2."""
        size = self.size
        config, tensors, _ = load_checkpoint(self.folder / "stable")
        run = LongRun(config, tensors, self.corpus, self.folder / "long", size.context)
        schedule = WSD(
            peak=PEAK / 5, warmup=max(1, size.long_steps // 10), total=size.long_steps, decay=size.long_steps // 2
        )
        recipe = Recipe(
            schedule=schedule,
            optimizer=Optimizer(base_width=BASE_WIDTH),
            batch=BatchShape(sequence=size.context, rows=size.long_rows, bounds=run.bounds),
            precision=size.precision,
            device=size.device,
            save_every=20,
            log_every=5,
        )
        return run.measure(recipe)

    def mtp(self) -> dict[str, Any]:
        """The decay once more from the stable part's end, with and without a head that predicts the token after the next."""
        size, found = self.size, dict[str, Any]()
        kept = self.folder / "stable" / f"step-{size.steps - size.decay:08d}.pt"
        schedule = size.wsd(size.decay, size.decay * 9 // 10, warmup=max(1, size.decay // 20))
        for name, weight in (("mtp", size.mtp), ("next", 0.0)):
            found[name] = told(self._train(name, schedule, parameters=trainable(load_checkpoint(kept)[1]), mtp=weight))
        return found | draft_acceptance(self.folder / "mtp", self.held_out, size.sequence, size.device)

    def sft(self) -> dict[str, Any]:
        """The long model learns to date passages; measured before and after, short and long, dense and sparse."""
        size, task = self.size, self.folder / "eras"
        long = size.context * 3 // 4
        write_task(self._speeches(), self.corpus, task, train=size.sft_steps * 25, test=200, long=long)
        config, before, _ = load_checkpoint(self.folder / "long" / "sparse")
        recipe = Recipe(
            schedule=WSD(
                peak=PEAK / 2, warmup=max(1, size.sft_steps // 20), total=size.sft_steps, decay=size.sft_steps // 3
            ),
            optimizer=Optimizer(base_width=BASE_WIDTH),
            batch=BatchShape(sequence=size.context, rows=size.long_rows),
            precision=size.precision,
            device=size.device,
        )
        result = train_model(config, recipe, task / "train.shard", self.folder / "sft", parameters=trainable(before))
        found: dict[str, Any] = told(result) | {"long_tokens": long}
        for state, tensors in (("before", before), ("after", load_checkpoint(self.folder / "sft")[1])):
            for kind, chosen in (("sparse", config), ("dense", replace(config, sparse=None))):
                reading = Reading(chosen, tensors, size.context, size.device)
                found[f"{state}_{kind}"] = {
                    name: right_answers(reading, task / f"{name}.shard") for name in ("short", "long")
                }
        return found

    def export(self) -> dict[str, Any]:
        """A folder that ``whimbrel run`` and every other reader of the Hub's layout takes."""
        config, tensors, _ = load_checkpoint(self.folder / "sft")
        target = self.folder / "model"
        if not (target / "config.json").exists():
            export_hub(replace(config, eos_token_ids=(self._end(),)), tensors, target, tokenizer=self.corpus)
            text = {"chat_template": TEMPLATE, "eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast"}
            (target / "tokenizer_config.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        return {"model": str(target)}

    def _speeches(self) -> Path:
        return self.given_speeches or fetch(self.folder / "text")

    def _end(self) -> int:
        import tokenizers

        end = tokenizers.Tokenizer.from_file(str(self.corpus / "tokenizer.json")).token_to_id(END)
        assert end is not None
        return end

    def _train(
        self,
        name: str,
        schedule: Schedule,
        *,
        keep_every: int | None = None,
        start: Path | None = None,
        parameters: Parameters | None = None,
        mtp: float = 0.0,
    ) -> TrainResult:
        recipe = Recipe(
            schedule=schedule,
            optimizer=Optimizer(base_width=BASE_WIDTH),
            batch=BatchShape(sequence=self.size.sequence, rows=self.size.rows),
            precision=self.size.precision,
            device=self.size.device,
            mtp=mtp,
            save_every=50,
            keep_every=keep_every,
            start=start,
        )
        folder, model = self.folder / name, self.size.model()
        return train_model(model, recipe, self.train_shard, folder, held_out=self.held_out, parameters=parameters)


def told(result: TrainResult) -> dict[str, Any]:
    """A result as the stages keep it."""
    return {
        "loss": result.loss,
        "held_out_loss": result.held_out_loss,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": round(result.seconds),
    }
