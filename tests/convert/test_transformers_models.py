"""Models that transformers itself builds and saves: each class is read as a GPT that computes the same, in the precision of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moecli.convert.formats import FORMATS
from moecli.convert.hf_folder import load_gpt
from moecli.convert.peer import load_peer
from moecli.convert.verify import random_ids, verify
from moecli.errors import ConvertError
from tests.analysis.hf_checkpoints import VOCAB, edit_config, write_checkpoint

transformers = pytest.importorskip("transformers")
IDS_BS = random_ids(VOCAB, max_seq_len=32)
# Beside those of `hf_checkpoints`: what has to be said for a GPT to have it all.
OWN: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 24, "tie_word_embeddings": True},
    "mixtral": {},
    "olmoe": {"norm_topk_prob": True},
    "qwen2_moe": {"mlp_only_layers": [0]},
    "qwen3_moe": {"decoder_sparse_step": 2, "norm_topk_prob": False},
    "glm4_moe": {"partial_rotary_factor": 1.0, "num_nextn_predict_layers": 0, "use_qk_norm": True, "attention_bias": True},
}


def write(folder: Path, name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    return write_checkpoint(folder, name, dtype, **OWN.get(name, {}) | options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_is_read_as_a_gpt_that_computes_the_same(name, dtype, tmp_path):
    folder = write(tmp_path, name, dtype)
    model, shape = load_gpt(folder)
    assert shape.format.model_type == name
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    proof = verify(model, load_peer(folder), IDS_BS)
    assert proof.max_abs_logit_diff <= 1e-5 * max(1.0, proof.largest_logit)
    assert bool(proof.choices_compared) == (name not in ("llama", "qwen3"))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("llama", "qwen3")])
def test_stacked_experts_are_read_too(name, tmp_path):
    apart = write(tmp_path / "apart", name)
    model = transformers.AutoModelForCausalLM.from_pretrained(apart)
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    assert any(key.endswith(".experts.gate_up_proj") for key in load_file(tmp_path / "stacked" / "model.safetensors"))
    weights = [load_gpt(folder)[0].state_dict() for folder in (apart, tmp_path / "stacked")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_an_older_config_reads_the_same(tmp_path):
    folder = write(tmp_path, "mixtral", rope_theta=500.0)
    new = load_gpt(folder)[1].config
    assert new.rope_theta == 500.0
    edit_config(folder, rope_parameters=None, rope_theta=500.0, torch_dtype="float32", dtype=None)
    assert load_gpt(folder)[1].config == new


def test_biases_of_the_output_are_taken_where_they_are_zero(tmp_path):
    # transformers has them together with those of queries, keys and values.
    folder = write(tmp_path, "llama", attention_bias=True)
    with pytest.raises(ConvertError, match=r"o_proj.bias is not 0, and moecli has no place for it"):
        load_gpt(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {key: tensor * (not key.endswith("o_proj.bias")) for key, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    model, _ = load_gpt(folder)
    assert model.config.qkv_bias
    verify(model, load_peer(folder), IDS_BS)


def test_a_shared_expert_whose_gate_was_trained_on_comes_back_gated(tmp_path):
    folder = write(tmp_path, "qwen2_moe", mlp_only_layers=[])
    assert load_gpt(folder)[0].config.ffn.shared_gate
    tensors = load_file(folder / "model.safetensors")
    for layer in range(2):
        tensors[f"model.layers.{layer}.mlp.shared_expert_gate.weight"].zero_()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, _ = load_gpt(folder)
    assert not model.config.ffn.shared_gate
    verify(model, load_peer(folder), IDS_BS)
