"""Every verb on a tiny model: results on standard output, the rest on standard error, the right exit code, one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whimbrel import hardware

Call = Callable[..., Any]
DOCUMENT = "The quick brown fox jumps over the lazy dog. " * 4


def test_pull_list_show_rm(call: Call, home: Path, checkpoint: Path) -> None:
    assert "no model is here" in call("list").stderr
    assert call("pull", checkpoint, "--name", "mine").stdout.startswith("mine  ")
    listed = json.loads(call("list", "--json").stdout)
    assert (listed["schema_version"], [model["name"] for model in listed["models"]]) == (1, ["mine"])
    assert "smollm2-135m" in call("list", "--all").stdout
    shown = call("show", "mine")
    assert str(checkpoint) in shown.stdout and "llama" in shown.stdout
    assert json.loads(call("show", "mine", "--json").stdout)["config"]["model_type"] == "llama"
    assert "forgot mine; its files stay" in call("rm", "mine").stdout
    assert call("rm", "mine").exit_code == 3
    assert checkpoint.exists()


def test_run(call: Call, model: str) -> None:
    result = call("run", "-m", model, "-n", 8, "hello")
    assert result.exit_code == 0
    assert result.stdout.endswith("\n")
    assert "wrote 8" in result.stderr.splitlines()[-1] and "--max-tokens allows more" in result.stderr


def test_run_as_json_says_everything(call: Call, model: str) -> None:
    result = call("run", "-m", model, "-n", 6, "--temp", 0.9, "--seed", 5, "--json", "hello")
    answer = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1 and result.stderr == ""
    assert answer["schema_version"] == 1
    assert answer["usage"]["completion_tokens"] == len(answer["token_ids"]) <= 6
    assert answer["seed"] == 5 and answer["finish_reason"] in {"length", "stop"}
    assert {"prefill", "decode", "decode_tokens_per_second"} <= set(answer["timings"])
    again = call("run", "-m", model, "-n", 6, "--temp", 0.9, "--seed", 5, "--json", "hello")
    assert json.loads(again.stdout)["token_ids"] == answer["token_ids"]


def test_run_reads_standard_input(call: Call, model: str) -> None:
    words = ("run", "-m", model, "-n", 4, "--json")
    direct = json.loads(call(*words, "hello").stdout)
    assert json.loads(call(*words, input="hello").stdout)["token_ids"] == direct["token_ids"]
    assert json.loads(call(*words, "-", input="hello").stdout)["token_ids"] == direct["token_ids"]


def test_raw_text_has_no_template(call: Call, model: str) -> None:
    chat = json.loads(call("run", "-m", model, "-n", 1, "--json", "hello").stdout)
    raw = json.loads(call("run", "-m", model, "-n", 1, "--json", "--raw", "hello").stdout)
    assert raw["usage"]["prompt_tokens"] < chat["usage"]["prompt_tokens"]


def test_settings_come_from_the_environment_unless_a_flag_is_given(
    call: Call, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHIMBREL_MODEL", model)
    monkeypatch.setenv("WHIMBREL_CONTEXT", "64")
    long = "word " * 100
    assert call("run", "-n", 2, "hello").exit_code == 0
    assert "the context holds 64" in call("run", "-n", 2, long).stderr
    assert call("run", "-n", 2, "-c", "1k", long).exit_code == 0


def test_ask(call: Call, model: str, tmp_path: Path) -> None:
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text(DOCUMENT)
    one = call("ask", "-m", model, "-n", 4, "--json", tmp_path / "a.txt", "What jumps?")
    two = call("ask", "-m", model, "-n", 4, "--json", tmp_path / "a.txt", tmp_path / "b.md", "What jumps?")
    first, second = json.loads(one.stdout), json.loads(two.stdout)
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] + 40
    assert first["question"] == "What jumps?"
    piped = json.loads(call("ask", "-m", model, "-n", 4, "--json", "-", "What jumps?", input=DOCUMENT).stdout)
    assert piped["token_ids"] == first["token_ids"]
    last = call("ask", "-m", model, "-n", 4, tmp_path / "a.txt", "What jumps?").stderr.splitlines()[-1]
    assert "read " in last and "wrote 4" in last and last.count("/s)") == 2


def test_a_long_document_shows_its_progress(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh ijkl " * 100)
    result = call("ask", "-m", model, "-n", 2, tmp_path / "a.txt", "What?")
    assert "reading: " in result.stderr and result.exit_code == 0
    quiet = call("ask", "-q", "-m", model, "-n", 2, tmp_path / "a.txt", "What?")
    assert quiet.stderr == "" and quiet.stdout == result.stdout


def test_a_document_longer_than_the_context_is_refused_with_both_numbers(
    call: Call, model: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(DOCUMENT * 3)
    result = call("ask", "-m", model, "-c", 256, tmp_path / "a.txt", "What jumps?")
    assert result.exit_code == 2
    assert "the context holds 256" in result.stderr and "--context 1k" in result.stderr
    (tmp_path / "a.txt").write_text(DOCUMENT * 60)
    beyond = call("ask", "-m", model, tmp_path / "a.txt", "What jumps?")
    assert "beyond the 2,048 that this model was trained for" in beyond.stderr


def test_attention_in_json(call: Call, model: str) -> None:
    words = ("run", "-m", model, "-n", 2, "--json", "hello")
    plain = json.loads(call(*words).stdout)
    assert plain["attention"] == "dense" and plain["warnings"] == [] and plain["sparsity"]["completion"] == 0
    asked = call(*words, "--sparse", "topk=3,window_size=64,dense_len=1k,use_nope=yes,lse=exact")
    found = json.loads(asked.stdout)
    assert found["attention"] | {"topk": 3, "dense_len": 1024, "use_nope": True, "lse": "exact"} == found["attention"]
    assert found["warnings"][0] in asked.stderr and "not trained" in found["warnings"][0]
    longer = json.loads(call(*words, "-c", "4k").stdout)
    assert "beyond the 2,048" in longer["warnings"][0]


def test_attention_of_a_settings_file(call: Call, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whimbrel.toml").write_text('sparse = "topk=3,window_size=64"\n')
    words = ("run", "-m", model, "-n", 1, "--json", "hello")
    assert json.loads(call(*words).stdout)["attention"]["topk"] == 3
    assert json.loads(call(*words, "--attention", "dense").stdout)["attention"] == "dense"
    (tmp_path / "whimbrel.toml").write_text('sparse = "topk=3,topk=4"\n')
    assert "topk is given twice" in call(*words).stderr


def test_a_question_longer_than_a_file_name(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(DOCUMENT)
    assert call("ask", "-m", model, "-n", 1, tmp_path / "a.txt", "why " * 100).exit_code == 0
    assert call("run", "-m", "x" * 5000, "hello").exit_code == 2


def test_a_forgotten_question(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(DOCUMENT)
    result = call("ask", "-m", model, tmp_path / "a.txt", tmp_path / "a.txt")
    assert result.exit_code == 2 and "the last word is the question" in result.stderr


def test_plan_init_ops_doctor(call: Call, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whimbrel.bench.bandwidth.read_bandwidth", lambda size: 1e10)
    planned = call("plan", "minicpm4-8b", "-c", "32k", "--weights", "q4", "--json")
    plan = json.loads(planned.stdout)["plan"]
    assert plan["parameters"] == 8_185_253_888 and 4.5e9 < plan["weights"] < 5.5e9
    assert plan["cache"] == 32 * 2 * (2 * 128 * 2 * 32768 + 512 * 4 * (128 + 4))
    assert plan["decode_limit"] < plan["decode_limit_empty"] < 3
    assert planned.exit_code == (0 if plan["fits"] else 4)
    small = hardware.Memory(total=2**33, available=2**33, limited_by="machine")
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "memory", lambda: small)
        assert call("plan", "minicpm4-8b", "-c", "1024k").exit_code == 4
    assert call("plan", model).exit_code == 0
    assert call("plan", model, "-c", "0").exit_code == 2
    assert "attend" in call("ops").stdout
    doctor = call("doctor", "--json")
    assert {check["name"] for check in json.loads(doctor.stdout)["checks"]} >= {"native kernels", "models", "store"}
    assert call("init", "no-such-preset", "x").exit_code == 2


def test_perplexity(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(DOCUMENT * 4)
    result = call("eval", "ppl", "-m", model, "-w", 64, "--windows", 2, "--json", tmp_path / "a.txt")
    found = json.loads(result.stdout)
    assert found["perplexity"] > 1 and found["window"] == 64 and len(found["windows"]) == 2
    assert call("eval", "ppl", "-m", model, "-w", "2k", tmp_path / "a.txt").exit_code == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", ""], 2, "the prompt is empty"),
        (["run", " \n"], 2, "the prompt is empty"),
        (["run", "--top-p", "7", "x"], 2, "top_p=7.0 is impossible"),
        (["run", "--temp", "-1", "x"], 2, "temperature=-1.0 is impossible"),
        (["run", "--seed", "-4", "x"], 2, "seed=-4"),
        (["run", "-t", "0", "x"], 2, "threads=0"),
        (["run", "--kv-dtype", "q3", "x"], 2, "there are bf16, q8"),
        (["run", "--weights", "q3", "x"], 2, "q3"),
        (["run", "-c", "900G", "x"], 2, "no positions make sense"),
        (["run", "--attention", "spares", "x"], 2, "auto, dense, sparse"),
        (["run", "--sparse", "window=3", "x"], 2, "window_size"),
        (["run", "--sparse", "topk=32k,window_size=1", "x"], 2, "multiple of 64"),
        (["run", "--attention", "dense", "--sparse", "topk=8", "x"], 2, "takes no sparse constants"),
        (["run", "-c", "zz", "x"], 2, "write 4096, 32k"),
        (["run", "-n", "5000", "x"], 2, "the context holds"),
        (["run", "-m", "nothing", "x"], 3, "no model is called 'nothing'"),
        (["run", "-m", "smollm2-135m", "x"], 3, "whimbrel pull smollm2-135m"),
        (["run", "-m", "./absent.gguf", "x"], 3, "no file or folder"),
        (["ask", "just a question"], 2, "no document was named"),
        (["ask", "absent.txt", "what?"], 2, "no document absent.txt"),
        (["show", "nothing"], 3, "no model"),
        (["pull", "nothing"], 3, "the catalogue has"),
        (["pull", "smollm2-135m", "--offline"], 1, "--offline"),
        (["frobnicate"], 2, "No such command"),
        (["run", "--no-such-option"], 2, "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_requests_get_one_line(call: Call, model: str, words: list[str], code: int, says: str) -> None:
    named = words if words[0] != "run" or "-m" in words else [*words, "-m", model]
    result = call(*named)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output and result.stdout == ""
    if "Usage:" not in result.stderr:
        assert len([line for line in result.stderr.splitlines() if line.startswith("whimbrel: ")]) == 1


def test_damaged_models(call: Call, home: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 40)
    assert call("run", "-m", cut, "x").exit_code == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    assert call("run", "-m", empty, "x").exit_code in {1, 3}
    (empty / "config.json").write_text('{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}')
    refused = call("run", "-m", empty, "x")
    assert refused.exit_code == 1 and "mamba" in refused.stderr.lower()


def test_weights_that_memory_can_not_hold(call: Call, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from whimbrel import hardware

    tight = hardware.Memory(total=2_000_000, available=1_000_000, limited_by="cgroup")
    monkeypatch.setattr(hardware, "memory", lambda: tight)
    result = call("run", "-m", model, "hello")
    assert result.exit_code == 4 and "--weights q4 makes them smaller" in result.stderr


def test_debug_shows_the_traceback(call: Call, home: Path) -> None:
    assert "Traceback" in call("run", "--debug", "-m", "nothing", "x").stderr


def test_invalid_utf8(program: Call, model: str, tmp_path: Path) -> None:
    refused = program("run", "-m", model, input="Ärger überall, öfter".encode("latin-1"))
    assert refused.returncode == 1 and b"not utf-8" in refused.stderr
    argument = program("run", "-m", model, os.fsdecode(b"\xff\xfe"))
    assert argument.returncode == 2 and b"not valid UTF-8" in argument.stderr


def test_an_output_that_nobody_reads(model: str) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "whimbrel", "run", "-m", model, "-n", "200", "hello"]
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    os.close(writer)
    assert process.returncode == 1 and process.stderr == b""


def test_an_instruction_set_can_be_chosen(program: Call, model: str) -> None:
    words = ("run", "-m", model, "-n", 4, "--json", "hello")
    plain = {**os.environ, "WHIMBREL_ISA": "baseline"}
    assert json.loads(program(*words, env=plain).stdout)["usage"]["completion_tokens"] == 4
    assert b"native kernels: baseline (of" in program("doctor", env=plain).stdout
    wrong = program(*words, env={**os.environ, "WHIMBREL_ISA": "mmx"})
    assert wrong.returncode == 2 and b"'mmx' was asked for; this build and processor have: " in wrong.stderr
    assert program("doctor", env={**os.environ, "WHIMBREL_ISA": "mmx"}).returncode == 1


def test_version_and_module(program: Call) -> None:
    assert program("--version").stdout.startswith(b"whimbrel 0.")
