"""Training throughput beside two peers: plain PyTorch in the manner of nanoGPT, and ``transformers.Trainer``.

    python -m whimbrel.bench.training --size 3m

All three train the same Llama shape on the same text (Python's own standard library, cut into tokens by a BPE that is
made from it) with AdamW, clipping and fp32, on the same threads in one process, taking turns: short runs of each, one
after another, and the median of tokens per second. Peers see rows of concatenated documents, as is their custom; ours
sees packed documents that attend to themselves only. A program of its own: nobody imports it.
"""

import argparse
import itertools
import json
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import whimbrel
from whimbrel.formats.shards import ShardReader, ShardWriter
from whimbrel.models.config import ModelConfig
from whimbrel.train.parametrization import Optimizer
from whimbrel.train.pretrain import train_model
from whimbrel.train.recipe import BatchShape, Recipe
from whimbrel.train.schedule import WSD

RATE = 1e-3
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = "wall"
"""``--clock cpu`` counts the process's own processor time: what a busy machine leaves comparable (with one thread)."""
SHAPES = {
    "3m": {"vocab_size": 4096, "hidden_size": 192, "intermediate_size": 512, "layers": 6, "heads": 3, "kv": 1},
    "30m": {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1280, "layers": 12, "heads": 8, "kv": 2},
}
Trainer = Callable[[int], tuple[float, float]]
"""Steps to (tokens per second, the last loss)."""


def shape(size: str, sequence: int) -> ModelConfig:
    """A Llama of 3 or 30 million parameters with tied embeddings."""
    s = SHAPES[size]
    return ModelConfig(
        model_type="llama",
        vocab_size=s["vocab_size"],
        hidden_size=s["hidden_size"],
        intermediate_size=s["intermediate_size"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["kv"],
        head_dim=64,
        rms_norm_eps=1e-5,
        max_position_embeddings=sequence,
        tie_word_embeddings=True,
    )


def make_shard(path: Path, vocab_size: int, megabytes: float) -> ShardReader:
    """The standard library's modules as documents."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts, left = [], int(megabytes * 1e6)
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        texts.append(file.read_text(encoding="utf-8", errors="ignore")[:left])
        left -= len(texts[-1])
        if left <= 0:
            break
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False))
    with ShardWriter(path, vocab_size=vocab_size, vocabulary="bench") as writer:
        for text in filter(None, texts):
            writer.add(tokenizer.encode(text).ids)
    return ShardReader(path)


class Ours:
    """``train_model``, timed between its steps."""

    def __init__(self, config: ModelConfig, shard: ShardReader, sequence: int, rows: int, precision: str) -> None:
        self.config, self.shard, self.sequence, self.rows = config, shard, sequence, rows
        self.precision = precision

    def __call__(self, steps: int) -> tuple[float, float]:
        recipe = Recipe(
            schedule=WSD(peak=RATE, warmup=1, total=steps + 1, decay=0),
            optimizer=Optimizer(parametrization="standard"),
            batch=BatchShape(sequence=self.sequence, rows=self.rows),
            precision=self.precision,
            log_every=1,
            save_every=10**6,
        )
        times: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            result = train_model(
                self.config, recipe, [self.shard], folder, watchers=[lambda line: times.append(CLOCKS[CLOCK]())]
            )
        tokens = result.tokens / result.steps * (len(times) - 1)
        return tokens / (times[-1] - times[0]), result.curve[-1][1]


class NanoBlock(nn.Module):
    """Attention and MLP as plain PyTorch code has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h, d = config.hidden_size, config.head_dim
        self.heads, self.kv, self.d = config.num_attention_heads, config.num_key_value_heads, d
        self.norm1, self.norm2 = nn.RMSNorm(h, config.rms_norm_eps), nn.RMSNorm(h, config.rms_norm_eps)
        self.qkv = nn.Linear(h, (self.heads + 2 * self.kv) * d, bias=False)
        self.out = nn.Linear(self.heads * d, h, bias=False)
        self.gate, self.up = (nn.Linear(h, config.intermediate_size, bias=False) for _ in range(2))
        self.down = nn.Linear(config.intermediate_size, h, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, hidden] to the same."""
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).split([self.heads * self.d, self.kv * self.d, self.kv * self.d], -1)
        q, k, v = (part.view(b, t, -1, self.d).transpose(1, 2) for part in (q, k, v))
        q, k = (self.turn(part, cos, sin) for part in (q, k))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, -1))
        n = self.norm2(x)
        return x + self.down(functional.silu(self.gate(n)) * self.up(n))  # type: ignore[no-any-return]

    @staticmethod
    def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The rotary embedding of x [B, H, T, D]."""
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Nano(nn.Module):
    """The same Llama written as nanoGPT writes its GPT: modules, flat rows, one forward that returns the loss."""

    def __init__(self, config: ModelConfig, shard: ShardReader, sequence: int, rows: int, precision: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(NanoBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        turns = 10000.0 ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        angles = torch.arange(sequence)[:, None] * turns
        self.cos, self.sin = angles.cos(), angles.sin()
        self.data, self.sequence, self.rows, self.precision = shard.tokens, sequence, rows, precision
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of rows [B, T]."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = functional.linear(self.norm(x), self.embed.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def __call__(self, *arguments: Any) -> Any:
        """With tensors the forward pass; with a number of steps the timed run."""
        return super().__call__(*arguments) if isinstance(arguments[0], Tensor) else self.run(arguments[0])

    def run(self, steps: int) -> tuple[float, float]:
        """Random windows, as nanoGPT draws them."""
        rng, times, loss = np.random.default_rng(0), list[float](), torch.zeros(())
        for _ in range(steps + 1):
            starts = rng.integers(0, len(self.data) - self.sequence - 1, self.rows)
            windows = torch.from_numpy(
                np.stack([self.data[s : s + self.sequence + 1] for s in starts]).astype(np.int64)
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                loss = self(windows[:, :-1], windows[:, 1:])
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            value = loss.item()
            times.append(CLOCKS[CLOCK]())
        return steps * self.sequence * self.rows / (times[-1] - times[0]), value


class TransformersTrainer:
    """``transformers.Trainer`` with ``LlamaForCausalLM``, its optimizer fused as the others' are."""

    def __init__(self, config: ModelConfig, shard: ShardReader, sequence: int, rows: int, precision: str) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        # head_dim x heads is the hidden size in both shapes
        self.model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config.to_hf().items() if k != "torch_dtype"}))
        ids = shard.tokens[: len(shard.tokens) // sequence * sequence].astype(np.int64).reshape(-1, sequence)
        self.rows_of_text = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in ids]
        self.sequence, self.rows, self.precision = sequence, rows, precision

    def __call__(self, steps: int) -> tuple[float, float]:
        from transformers import PrinterCallback, TrainerCallback, TrainingArguments
        from transformers import Trainer as HFTrainer

        times: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *arguments: Any, **named: Any) -> None:
                times.append(CLOCKS[CLOCK]())

        with tempfile.TemporaryDirectory() as folder:
            options = TrainingArguments(
                output_dir=folder,
                max_steps=steps + 1,
                per_device_train_batch_size=self.rows,
                learning_rate=RATE,
                adam_beta2=0.95,
                weight_decay=0.1,
                max_grad_norm=1.0,
                optim="adamw_torch_fused",
                bf16=self.precision == "bf16",
                use_cpu=True,
                save_strategy="no",
                logging_steps=steps + 1,
                report_to=[],
                disable_tqdm=True,
            )
            trainer = HFTrainer(
                model=self.model,
                args=options,
                train_dataset=self.rows_of_text,
                callbacks=[Clock()],
            )
            trainer.remove_callback(PrinterCallback)  # standard output is for the record
            trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return steps * self.sequence * self.rows / (times[-1] - times[0]), losses[-1]


PEERS: dict[str, Callable[..., Trainer]] = {"whimbrel": Ours, "plain": Nano, "transformers": TransformersTrainer}


def main() -> None:
    """Print one JSON object: tokens per second of each, and the ratios of neighbours in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SHAPES, default="3m")
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: the process's own time; with --threads 1")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--megabytes", type=float, default=2.0, help="of text")
    parser.add_argument("--only", choices=PEERS, action="append")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    globals()["CLOCK"] = asked.clock
    config = shape(asked.size, asked.sequence)
    with tempfile.TemporaryDirectory() as folder:
        shard = make_shard(Path(folder) / "text.shard", config.vocab_size, asked.megabytes)
        chosen = {name: PEERS[name] for name in asked.only or PEERS}
        trainers = {
            name: make(config, shard, asked.sequence, asked.rows, asked.precision) for name, make in chosen.items()
        }
        speeds: dict[str, list[float]] = {name: [] for name in trainers}
        for _, (name, trainer) in itertools.product(range(asked.turns), trainers.items()):
            speeds[name].append(trainer(asked.steps)[0])
    medians = {name: round(statistics.median(values)) for name, values in speeds.items()}
    ours = speeds.get("whimbrel", [])
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(ours, values, strict=True)), 3)
        for name, values in speeds.items()
        if ours and name != "whimbrel"
    }
    record = {"parameters": config.num_parameters(), **vars(asked), "tokens_per_second": medians, "ratio": ratios}
    print(json.dumps(record | {"torch": torch.__version__, "whimbrel": whimbrel.__version__}, indent=1))


if __name__ == "__main__":
    main()
