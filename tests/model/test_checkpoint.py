"""A model comes back from disk bit for bit, and a damaged one is refused with the file named."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from safetensors import SafetensorError

from moecli.errors import RunError
from moecli.model import checkpoint
from moecli.model.checkpoint import load_model, save_model, write_tensors
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.model.manifest import add_to_manifest
from moecli.moe.layers import DenseMoEConfig, MLPConfig, SparseMoEConfig


@pytest.fixture
def model():
    return build_gpt(GPTConfig(d_model=16, num_layers=2, num_heads=2, ffn=SparseMoEConfig(num_experts=2)), 50, seed=0).eval()


@pytest.mark.parametrize("ffn", [MLPConfig(), DenseMoEConfig(num_experts=2), SparseMoEConfig(num_experts=2)], ids=lambda ffn: ffn.kind)
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_round_trip(tmp_path, ffn, tie_embeddings):
    config = GPTConfig(d_model=16, num_layers=2, num_heads=2, ffn=ffn, tie_embeddings=tie_embeddings)
    model = build_gpt(config, 50, seed=0).eval()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == config
    ids_BS = torch.arange(10).view(1, 10)
    assert torch.equal(loaded(ids_BS)[0], model(ids_BS)[0])


def test_a_missing_file_is_named(tmp_path, model):
    save_model(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model\.safetensors: there is no such file"):
        load_model(tmp_path)


def test_a_truncated_file_is_named(tmp_path, model):
    save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RunError, match=r"model\.safetensors: damaged"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"d_modell": 3}, "vocab_size": 3}', '{"vocab_size": 3}'])
def test_a_damaged_config_is_named(tmp_path, model, text):
    save_model(model, tmp_path)
    (tmp_path / "config.json").write_text(text)
    add_to_manifest(tmp_path, ["config.json"])
    with pytest.raises(RunError, match=r"config\.json: damaged"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path, model):
    save_model(model, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["vocab_size"] = 51
    (tmp_path / "config.json").write_text(json.dumps(content))
    add_to_manifest(tmp_path, ["config.json"])
    with pytest.raises(RunError, match="don't fit"):
        load_model(tmp_path)


def test_a_full_disk_is_an_os_error_with_its_number(tmp_path, model, monkeypatch):
    def full(*args: object, **options: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError) as caught:
        write_tensors(model.state_dict(), tmp_path / "model.safetensors")
    assert caught.value.errno == errno.ENOSPC == 28
