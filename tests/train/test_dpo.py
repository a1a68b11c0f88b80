"""DPO through TRL on an exported model, as docs/training.md tells it: the library's own trainer, and back into whimbrel."""

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
trl: Any = pytest.importorskip("trl", reason="needs TRL: pip install --no-deps trl")

from whimbrel.models.config import ModelConfig
from whimbrel.models.init import init_checkpoint
from whimbrel.models.loading import load_model
from whimbrel.train.export import export_hub, import_model

CONFIG = ModelConfig(
    model_type="llama", vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-5, max_position_embeddings=256,
    bos_token_id=1, eos_token_ids=(2,),
)  # fmt: skip
PAIRS = [{"prompt": f"Where does bird {n} fly?", "chosen": " South.", "rejected": " It does not."} for n in range(8)]


def test_an_exported_model_prefers_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    base = init_checkpoint(CONFIG, tmp_path / "base")
    config, parameters = import_model(base)
    exported = export_hub(config, parameters, tmp_path / "model", tokenizer=base, dtype="f32")
    tokenizer = AutoTokenizer.from_pretrained(exported)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    settings = trl.DPOConfig(
        output_dir=str(tmp_path / "dpo"), beta=0.1, learning_rate=1e-3, max_steps=6, per_device_train_batch_size=4,
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    trainer = trl.DPOTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(PAIRS), processing_class=tokenizer
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[0] == pytest.approx(math.log(2), abs=0.01)  # policy and reference are one
    assert losses[-1] < 0.9 * losses[0]
    trainer.save_model(str(tmp_path / "chosen"))
    after = import_model(tmp_path / "chosen")[1]
    assert set(after) == set(parameters) and any(not torch.equal(after[name], parameters[name]) for name in after)
    assert load_model(tmp_path / "chosen").config.hidden_size == 32
