"""lm-eval's command line against our completions and chat: a task of its own, a few local lines, no network.

With the server's own tokenizer (lm-eval's "remote" one, which it finds by itself), and with a local one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_server import MODEL, Server

from whimbrel.backends.open import open_model

CHOICES = [
    ("The capital of France is", [" London", " Paris", " seven"], 1),
    ("The opposite of hot is", [" cold", " blue", " a horse"], 0),
    ("Two plus two equals", [" green", " four", " Monday"], 1),
    ("The sun rises in the", [" bottle", " east", " seven"], 1),
    ("A dog is an", [" equation", " animal", " ocean"], 1),
    ("Water freezes into", [" ice", " bread", " music"], 0),
]
SCORED = """
task: shore_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_target: answer
doc_to_choice: choices
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
WRITTEN = """
task: shore_capital
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Name the capital of {{{{country}}}}."
doc_to_target: capital
filter_list:
  - name: found
    filter: [{{function: regex, regex_pattern: "(Paris|Rome|Berlin|Tokyo)"}}, {{function: take_first}}]
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 32, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CAPITALS = [("France", "Paris"), ("Italy", "Rome"), ("Germany", "Berlin"), ("Japan", "Tokyo")]

Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def evaluate(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Evaluate:
    """Runs `lm-eval` in a process that can't leave this machine, and gives its results."""
    folder = tmp_path_factory.mktemp("lm-eval")
    rows = [{"question": question, "choices": choices, "answer": answer} for question, choices, answer in CHOICES]
    _write_task(folder, "shore_choice", SCORED, rows)
    _write_task(folder, "shore_capital", WRITTEN, [{"country": land, "capital": city} for land, city in CAPITALS])
    closed = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"), **closed}

    def run(model: str, task: str, path: str, *words: str, **options: Any) -> dict[str, Any]:
        arguments = {"model": MODEL, "base_url": f"{server.v1}/{path}", "max_retries": 1, **options}
        given = ",".join(f"{key}={value}" for key, value in arguments.items())
        out = folder / f"{model}-{task}-{len(list(folder.iterdir()))}"
        command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", given, "--tasks", task]
        command += ["--include_path", str(folder), "--output_path", str(out), *words]
        environment = {**os.environ, **offline, "OPENAI_API_KEY": server.key}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        (results,) = out.rglob("results*.json")
        found: dict[str, Any] = json.loads(results.read_text())["results"][task]
        return found

    return run


@pytest.fixture(scope="module")
def tokenizer_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of the GGUF file as a folder that transformers reads."""
    folder = tmp_path_factory.mktemp("tokenizer")
    opened = open_model(smollm2, context=256)
    backend = opened.tokenizer._backend
    opened.executor.close()
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_loglikelihoods_with_the_servers_tokenizer(evaluate: Evaluate, server: Server) -> None:
    found = evaluate("local-completions", "shore_choice", "completions", auth_token=server.key)
    assert found["acc,none"] >= 5 / 6 and found["sample_len"] == len(CHOICES)


def test_loglikelihoods_with_a_local_tokenizer_several_at_once(evaluate: Evaluate, tokenizer_folder: Path) -> None:
    options = {"tokenizer": tokenizer_folder, "tokenizer_backend": "huggingface", "num_concurrent": 3}
    for tokenized in (True, False):
        found = evaluate("local-completions", "shore_choice", "completions", **options, tokenized_requests=tokenized)
        assert found["acc,none"] >= 5 / 6


def test_chat_completions_are_written_and_scored(evaluate: Evaluate) -> None:
    found = evaluate("local-chat-completions", "shore_capital", "chat/completions", "--apply_chat_template")
    assert found["exact_match,found"] >= 3 / 4


def _write_task(folder: Path, name: str, template: str, rows: list[dict[str, Any]]) -> None:
    """A task's two files: its YAML, and one JSON object a line."""
    data = folder / f"{name}.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (folder / f"{name}.yaml").write_text(template.format(data=data))
