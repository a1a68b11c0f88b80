"""The modes end to end on a tiny model: recipe files, SFT's marks, LoRA, longer contexts, exports; kill -9 and resume."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from typer.testing import CliRunner

from whimbrel.cli.main import app
from whimbrel.errors import FormatError, InvalidParameter, UsageError
from whimbrel.formats.shards import ShardReader, ShardWriter
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.config import ModelConfig
from whimbrel.models.init import init_checkpoint
from whimbrel.models.loading import load_model, load_text_side
from whimbrel.train.export import export_hub, import_model
from whimbrel.train.lora import Lora, lora_parameters, merged
from whimbrel.train.mixed import open_batches
from whimbrel.train.modes import export_lora, export_run, run_recipe
from whimbrel.train.pretrain import load_checkpoint, read_curve
from whimbrel.train.recipe import BatchShape
from whimbrel.train.recipe_file import long_config, read_recipe
from whimbrel.train.reporting import TensorBoard, duration, plot_loss
from whimbrel.train.schedule import WSD
from whimbrel.train.sft import conversation_ids, read_conversations

MODEL = """
[model]
vocab_size = 320
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
max_position_embeddings = 64
[optimizer]
base_width = 16
"""
RUN = """
[schedule]
name = "wsd"
peak = 0.01
warmup = 2
total = 12
decay = 4
[batch]
sequence = 32
rows = 4
[run]
log_every = 1
save_every = 3
"""
CONFIG = ModelConfig(
    model_type="llama", vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-5, max_position_embeddings=64,
    bos_token_id=1, eos_token_ids=(2,),
)  # fmt: skip
TALK = [
    {"role": "user", "content": "Where does it fly?"},
    {"role": "assistant", "content": "South."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "North again."},
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A random model with a tokenizer, in the Hub's layout."""
    return init_checkpoint(CONFIG, tmp_path / "base")


def shard(folder: Path, documents: int = 100) -> Path:
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "text.shard", vocab_size=320, vocabulary="v") as writer:
        for length in rng.integers(5, 60, documents):
            writer.add((rng.integers(64) + np.arange(length)) % 64)
    return folder / "text.shard"


def recipe(folder: Path, text: str) -> Path:
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


def pretraining(folder: Path) -> Path:
    shard(folder)
    return recipe(folder, MODEL + RUN + '[data]\nshards = "text.shard"\nheld_out = ["text.shard"]\n')


def test_pretrain_from_the_command_line_to_gguf(tmp_path: Path, base: Path) -> None:
    arguments = ["train", "pretrain", str(pretraining(tmp_path)), "--out", str(tmp_path / "run"), "--json"]
    arguments += ["--tensorboard", "--plot", str(tmp_path / "loss.png"), "--tokenizer", str(base)]
    arguments += ["--export", str(tmp_path / "model"), "--gguf", str(tmp_path / "model.gguf"), "--dtype", "f32"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)["train"]
    assert report["steps"] == 12 and report["held_out_loss"] < 5.5
    assert re.search(r"step 12/12  loss \d.*tokens/s  MFU \d+%  0:0\d left", done.stderr)
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    config, tensors, _ = load_checkpoint(tmp_path / "run")
    for path in (tmp_path / "model", tmp_path / "model.gguf"):
        again, weights = import_model(path)
        assert again.scale_emb == 12 and again.logit_scale == pytest.approx(config.logit_scale)
        for name, tensor in tensors.items():
            assert torch.allclose(weights[name], tensor, atol=1e-6), (path, name)
    with pytest.raises(UsageError, match="holds a model already"):
        export_hub(config, tensors, tmp_path / "model")


def test_event_files_are_tensorboards(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    board = TensorBoard(tmp_path)
    board({"step": 3, "loss": 2.5})
    board.close()
    data = next(tmp_path.iterdir()).read_bytes()
    events = []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    values = [
        (event.step, event.summary.value[0].tag, event.summary.value[0].simple_value)
        for event in events[1:]
        if event.summary.value
    ]
    assert (3, "loss", 2.5) in values


KILLED = """
import sys, torch
torch.set_num_threads(1)
from whimbrel.train.modes import run_recipe
from whimbrel.train.recipe_file import read_recipe
run_recipe(read_recipe(sys.argv[1], "pretrain"), sys.argv[2], write=lambda line: print(line, flush=True))
"""


def test_kill_9_and_resume_give_the_same_curve(tmp_path: Path) -> None:
    """A real process and a real SIGKILL, at whatever it was doing; then the rest, bit by bit."""
    path = pretraining(tmp_path)
    text = path.read_text().replace("total = 12", "total = 30").replace("save_every = 3", "save_every = 7")
    path.write_text(text)
    run_recipe(read_recipe(path, "pretrain"), tmp_path / "whole", write=lambda line: None)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 18/"):
            break
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(read_curve(tmp_path / "killed")) >= 18
    time.sleep(0.01)
    run_recipe(read_recipe(path, "pretrain"), tmp_path / "killed", write=lambda line: None)
    assert read_curve(tmp_path / "killed") == read_curve(tmp_path / "whole")
    ours, theirs = load_checkpoint(tmp_path / "killed")[1], load_checkpoint(tmp_path / "whole")[1]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("peak = 0.01", "peek = 0.01"), r"\[schedule\] has no field 'peek'; it has decay, floor, kind"),
        (("peak = 0.01\n", ""), r"\[schedule\] peak is missing"),
        (("peak = 0.01", 'peak = "high"'), r"peak is 'high', a number was expected"),
        (("total = 12", "total = 5"), "do not fit in 5"),
        (('name = "wsd"', 'name = "wds"'), "name is 'wds'; choose wsd, cosine or steplaw"),
        (("[run]", "[runs]"), "a recipe has no field 'runs'"),
        (("[run]", "[run]\nclips = 2"), r"\[run\] has no field 'clips'"),
        (("hidden_size = 32", "hidden = 32"), r"\[model\] has no field 'hidden'"),
        (("[model]", "[model]\nbase_width = 64"), r"base_width 64 contradicts \[optimizer\] base_width 16"),
        (
            ("[optimizer]", '[optimizer]\nparametrization = "standard"\n[lora]\nrank = 2\n[x]'),
            "a recipe has no field 'x'",
        ),
        (("[run]", "[lora]\nrank = 2\n[run]"), r"\[lora\] contradicts train pretrain; use train lora"),
        (("shards =", "conversations ="), r"\[data\] of train pretrain has no field 'conversations'"),
        (("[model]", "[model"), "no recipe can be read here"),
    ],
)
def test_unknown_and_contradictory_fields_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = pretraining(tmp_path)
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(InvalidParameter, match=f"^{re.escape(str(path))}: .*{message}"):
        read_recipe(path, "pretrain")


def test_only_the_assistants_turns_are_learned(base: Path) -> None:
    text = load_text_side(base)
    assert text.chat_template is not None
    ids, marks = conversation_ids(TALK, text.tokenizer, text.chat_template)
    assert text.tokenizer.decode(ids) == text.tokenizer.decode(
        text.tokenizer.encode(
            text.chat_template.render(TALK, add_generation_prompt=False), add_special=False, parse_special=True
        )
    )
    learned = text.tokenizer.decode([id for id, mark in zip(ids, marks, strict=True) if mark])
    assert learned.replace("<|im_end|>", "").replace("\n", "|") == "South.|North again.|"
    forgetful = ChatTemplate("{{ messages[-1]['content'] }}")
    with pytest.raises(FormatError, match="does not keep turn 2"):
        conversation_ids(TALK, text.tokenizer, forgetful)
    with pytest.raises(FormatError, match="teaches nothing"):
        conversation_ids(TALK[:1], text.tokenizer, text.chat_template)


def conversations(folder: Path, mode: str, base: Path) -> Path:
    (folder / "talk.jsonl").write_text((json.dumps({"messages": TALK}) + "\n") * 40)
    text = f'[model]\nfrom = "{base}"\n[optimizer]\nparametrization = "standard"\n{RUN}[data]\nconversations = "talk.jsonl"\n'
    return recipe(
        folder, text.replace("sequence = 32", "sequence = 64") + ("[lora]\nrank = 4\n" if mode == "lora" else "")
    )


def test_sft_learns_the_answers(tmp_path: Path, base: Path) -> None:
    asked = read_recipe(conversations(tmp_path, "sft", base), "sft")
    result = run_recipe(asked, tmp_path / "run", write=lambda line: None)
    assert result.curve[-1][1] < 0.8 * result.curve[0][1]
    shard = ShardReader(tmp_path / "run" / "conversations.shard")
    assert shard.marks is not None and 0 < shard.marks.mean() < 0.5
    export_run(asked, tmp_path / "run", tmp_path / "model", None, "bf16")
    assert load_model(tmp_path / "model").chat_template is not None


def test_lora_leaves_the_base_alone_and_merges(tmp_path: Path, base: Path) -> None:
    asked = read_recipe(conversations(tmp_path, "lora", base), "lora")
    result = run_recipe(asked, tmp_path / "run", write=lambda line: None)
    assert result.curve[-1][1] < result.curve[0][1]
    export_run(asked, tmp_path / "run", tmp_path / "model", None, "f32")
    before, after, changes = (
        import_model(base)[1],
        import_model(tmp_path / "model")[1],
        load_checkpoint(tmp_path / "run")[1],
    )
    name = "model.layers.1.mlp.down_proj"
    change = 4.0 * changes[f"{name}.lora_B.weight"] @ changes[f"{name}.lora_A.weight"]
    assert torch.allclose(after[f"{name}.weight"] - before[f"{name}.weight"], change, atol=1e-5) and bool(change.any())
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    export_lora(asked, tmp_path / "run", tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 4 and settings["peft_type"] == "LORA"
    with pytest.raises(InvalidParameter, match="no matrix 'qproj'"):
        lora_parameters(before, Lora(targets=("qproj",)))
    fresh = lora_parameters(before, Lora())
    assert all(torch.equal(tensor, before[name]) for name, tensor in merged(before, fresh, Lora()).items())


def test_a_longer_context_with_sparse_attention(tmp_path: Path, base: Path) -> None:
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "text.shard", vocab_size=320, vocabulary="v") as writer:
        for length in [20] * 30 + [50] * 30 + [100] * 20 + [300] * 10:
            writer.add(rng.integers(0, 320, length))
    text = f'[model]\nfrom = "{base}"\n[optimizer]\nparametrization = "standard"\n{RUN}[data]\nshards = "text.shard"\n'
    text = text.replace("sequence = 32", "sequence = 256\nbounds = [32, 64, 128]").replace("total = 12", "total = 6")
    path = recipe(tmp_path, text + "[long]\ncontext = 256\nsparse = { topk = 2, window_size = 0, dense_len = -1 }\n")
    asked = read_recipe(path, "long")
    result = run_recipe(asked, tmp_path / "run", write=lambda line: None)
    assert result.steps == 6
    config = load_checkpoint(tmp_path / "run")[0]
    assert config.rope.kind == "longrope" and config.max_position_embeddings == 256
    assert config.rope.long_factor[0] == pytest.approx(1, abs=0.05) and config.rope.long_factor[-1] == pytest.approx(
        4, abs=0.2
    )
    assert config.sparse is not None and config.sparse.topk == 2
    pieces = np.diff(open_batches(asked.shards, asked.recipe.batch, 0).batch(0).cu_seqlens)
    assert {19, 49, 99} <= set(pieces.tolist()) and pieces.max() == 256
    with pytest.raises(InvalidParameter, match="documents of 300 to 400 tokens"):
        open_batches(asked.shards, BatchShape(sequence=400, rows=2, bounds=(300,)), 0)
    with pytest.raises(InvalidParameter, match="shorter than the model's own"):
        long_config(config, {"context": 64})
    with pytest.raises(InvalidParameter, match="number of classes"):
        BatchShape(sequence=256, rows=3, bounds=(64,))


def test_two_processes_are_one(tmp_path: Path) -> None:
    """FSDP2 over gloo, by torchrun as people start it: the losses of one process, and the same weights."""
    path = pretraining(tmp_path)
    one = run_recipe(read_recipe(path, "pretrain"), tmp_path / "one", write=lambda line: None)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "whimbrel.train.distributed", str(path), str(tmp_path / "two")]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "after 12 steps of 2 processes" in done.stdout
    losses = [loss for _, loss in read_curve(tmp_path / "two")]
    assert losses == pytest.approx([loss for _, loss in one.curve], rel=2e-4)
    ours, theirs = load_checkpoint(tmp_path / "two")[1], load_checkpoint(tmp_path / "one")[1]
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-3) for name in theirs)


def test_bad_conversations_are_named(tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"text": "b"}\n')
    with pytest.raises(FormatError, match="line 2: "):
        list(read_conversations(tmp_path / "talk.jsonl"))
    with pytest.raises(FormatError, match="can't be read"):
        list(read_conversations(tmp_path / "none.jsonl"))


def test_small_things(tmp_path: Path) -> None:
    assert duration(3723) == "1:02:03" and duration(63) == "1:03"
    (tmp_path / "log.jsonl").write_text('{"step": 0, "loss": 2.0}\n{"step": 1, "loss": 9.0, "skipped": "spike"}\n')
    assert plot_loss(tmp_path / "a.png", tmp_path).exists()
    assert replace(WSD(peak=1, warmup=0, total=2, decay=1), kind="sqrt").rate(1) == pytest.approx(0.05)
