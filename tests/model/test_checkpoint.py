"""A model comes back from disk bit for bit, and a damaged one is refused with the file named."""

from __future__ import annotations

import errno
import json
import math

import pytest
import torch
from safetensors import SafetensorError

from moecli.errors import MachineError, RunError
from moecli.model import checkpoint, device
from moecli.model.checkpoint import load_model, save_model, write_tensors
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
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


def forge(folder, key, value):
    """Another value in config.json, and the manifest made to agree."""
    content = json.loads((folder / "config.json").read_text())
    place = content if key in content else content["model"]
    assert key in place
    place[key] = value
    (folder / "config.json").write_text(json.dumps(content))
    add_to_manifest(folder, ["config.json"])


NO_SIZES = [-1, 0, 2**31, 2**63, math.inf, math.nan, True, "8", 8.5, None, [8]]


@pytest.mark.parametrize("key", ["vocab_size", "num_layers", "d_model", "num_heads"])
@pytest.mark.parametrize("value", NO_SIZES, ids=str)
def test_sizes_that_are_none_are_refused_with_their_key(tmp_path, model, key, value):
    save_model(model, tmp_path)
    forge(tmp_path, key, value)
    with pytest.raises(RunError, match=rf"config\.json: damaged.*{key}"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("num_layers", 512, "it has 2 layers, config.json says 512"),
        ("num_layers", 1, "it has 2 layers, config.json says 1"),
        ("vocab_size", 51, r"embedding\.weight is of shape \[50, 16\], by config\.json of shape \[51, 16\]"),
        ("vocab_size", 2**31 - 1, r"embedding\.weight is of shape \[50, 16\], by config\.json of shape \[2147483647, 16\]"),
        ("d_model", 2**28, "is of shape"),
        ("tie_embeddings", True, r"lm_head\.weight is of shape \[50, 16\], by config\.json absent"),
        ("qkv_bias", True, r"k_proj\.bias is absent, by config\.json of shape \[16\]"),
    ],
)
def test_weights_of_another_shape_are_refused_before_anything_is_allocated(tmp_path, model, monkeypatch, key, value, what):
    save_model(model, tmp_path)
    forge(tmp_path, key, value)
    monkeypatch.setattr(GPT, "to_empty", lambda *arguments, **options: pytest.fail("allocated"))
    with pytest.raises(RunError, match=rf"model\.safetensors: the weights don't fit config\.json: .*{what}"):
        load_model(tmp_path)


def test_weights_beyond_the_memory_are_refused_before_they_are_read(tmp_path, model, monkeypatch):
    save_model(model, tmp_path)
    monkeypatch.setattr(device, "_total_memory_bytes", lambda device: 1000)
    monkeypatch.setattr(checkpoint, "load_file", lambda path: pytest.fail("read"))
    with pytest.raises(MachineError, match=r"the model in .* needs about"):
        load_model(tmp_path)


def test_a_full_disk_is_an_os_error_with_its_number(tmp_path, model, monkeypatch):
    def full(*args: object, **options: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError) as caught:
        write_tensors(model.state_dict(), tmp_path / "model.safetensors")
    assert caught.value.errno == errno.ENOSPC == 28
