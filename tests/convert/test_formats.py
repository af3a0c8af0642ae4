"""Every class: ours to theirs to ours is bit for bit the same, transformers computes the same, and what can't be represented is refused."""

from __future__ import annotations

import json

import pytest
import torch

from moecli.convert.features import left_behind
from moecli.convert.formats import FORMATS, ModelFacts, pick_format
from moecli.convert.hf_folder import load_gpt
from moecli.convert.peer import load_peer
from moecli.convert.tensor_files import TensorFiles
from moecli.convert.verify import random_ids, verify
from moecli.errors import ConvertError, MachineError
from moecli.model import device
from moecli.model.config import GPTConfig
from tests.convert.models import (
    CASES,
    END_OF_TEXT,
    MLP,
    PLAIN,
    SEQ_LEN,
    SIGMOID,
    SIZES,
    SPARSE,
    TWO_SHARED,
    VOCAB,
    config_of,
    random_model,
    write_folder,
)

pytest.importorskip("transformers")
IDS_BS = random_ids(VOCAB, SEQ_LEN)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_bit_identical_and_transformers_computes_the_same(name, tmp_path):
    model = random_model(config_of(name))
    assert pick_format("auto", model.config, "test").model_type == CASES[name][0]
    folder = write_folder(model, tmp_path, max_bytes=20_000)
    assert (folder / "model.safetensors.index.json").exists()

    proof = verify(model, load_peer(folder), IDS_BS)
    # Logits within 1e-5, or where they are larger than 1, within 1e-5 of the largest.
    assert proof.max_abs_logit_diff <= 1e-5 * max(1.0, proof.largest_logit)
    assert proof.tokens == IDS_BS.numel()
    num_routed = sum(ffn.routes for ffn in model.feed_forwards())
    assert proof.choices_compared == num_routed * IDS_BS.numel() * getattr(getattr(model.config.ffn, "router", None), "top_k", 0)

    back, shape = load_gpt(folder)
    before, after = model.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (shape.vocab_size, shape.max_seq_len, shape.format.model_type) == (VOCAB, SEQ_LEN, CASES[name][0])
    assert torch.equal(back(IDS_BS)[0], model(IDS_BS)[0])


def test_a_sigmoid_router_without_a_bias_comes_back_with_one_of_zero(tmp_path):
    model = random_model(GPTConfig.model_validate(SIZES | {"ffn": SPARSE | {"router": SIGMOID | {"selection_bias": False}}}))
    folder = write_folder(model, tmp_path)
    verify(model, load_peer(folder), IDS_BS)
    back, _ = load_gpt(folder)
    assert not any(ffn.selection_bias_E.any() for ffn in back.feed_forwards())
    assert torch.equal(back(IDS_BS)[0], model(IDS_BS)[0])


@pytest.mark.parametrize(
    "ffn",
    [SPARSE | {"router": {"kind": "noisy_topk", "top_k": 2}}, {"kind": "dense", "num_experts": 4, "d_expert": 12}],
    ids=["noisy top-k", "dense MoE"],
)
def test_what_evaluation_computes_decides(ffn, tmp_path):
    # Noise exists in training alone; a dense MoE is a top-k of all experts.
    model = random_model(GPTConfig.model_validate(SIZES | {"ffn": ffn}))
    folder = write_folder(model, tmp_path)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "mixtral"
    assert verify(model, load_peer(folder), IDS_BS).choices_compared
    back, _ = load_gpt(folder)
    torch.testing.assert_close(back(IDS_BS)[0], model(IDS_BS)[0], rtol=1e-5, atol=1e-5)
    assert bool(left_behind(model.config)) == (ffn["kind"] == "sparse")


@pytest.mark.parametrize(
    ("router", "what"),
    [
        ({"kind": "vmoe_topk", "noise_std": 1.0}, "the noise of the router vmoe_topk"),
        ({"kind": "vmoe_topk", "noise_std": 0.0}, None),
        ({"kind": "topk", "input_jitter": 0.01}, "the router's input_jitter"),
        ({"kind": "topk", "keep_threshold": 0.5}, "the router's keep_threshold"),
        ({"kind": "topk"}, None),
    ],
)
def test_what_training_alone_has_is_told(router, what):
    notes = left_behind(GPTConfig.model_validate(SIZES | {"ffn": SPARSE | {"router": {"top_k": 2} | router}}))
    assert [note.split(" is left out")[0] for note in notes] == ([] if what is None else [what])


@pytest.mark.parametrize("factor", [4.0, 3.99, None])
def test_a_capacity_that_drops_in_evaluation_is_refused(factor):
    # 8 experts, top-2: a factor of 4 is room for every token at every expert.
    config = GPTConfig.model_validate(SIZES | {"ffn": SPARSE | {"capacity": {"factor": 1.0, "eval_factor": factor}}})
    dropping = "capacity.eval_factor 3.99 can drop tokens in evaluation: no class drops any; nearest: capacity.eval_factor: null"
    assert FORMATS["mixtral"].problems(config) == ([dropping] if factor == 3.99 else [])


NO_CLASS = {
    "activation gelu": {"ffn": MLP, "activation": "gelu"},
    "both sides": {"ffn": MLP, "causal": False},
    "ffn.kind soft": {"ffn": {"kind": "soft", "num_experts": 4, "d_expert": 8}},
    "router.kind expert_choice": {"ffn": SPARSE | {"router": {"kind": "expert_choice"}}},
    "router.kind hash": {"ffn": SPARSE | {"router": {"kind": "hash"}}},
    "router.kind random": {"ffn": SPARSE | {"router": {"kind": "random"}}},
    "router.selection_bias with a softmax": {"ffn": SPARSE | {"router": {"kind": "topk", "selection_bias": True}}},
    "group_score max": {"ffn": SPARSE | {"router": SIGMOID | {"num_groups": 4, "top_groups": 2, "group_score": "max"}}},
    "shared experts: qwen3_moe has none": {"ffn": SPARSE | TWO_SHARED, "qk_norm": "head"},
    "dense layers after MoE layers": {"ffn": SPARSE | {"router": SIGMOID}, "moe_layers": {"indices": [0, 2]}},
    "shared_gate": {"ffn": SPARSE | TWO_SHARED | {"shared_gate": True, "router": SIGMOID}},
    "joint width 10": {"ffn": SPARSE | {"num_shared_experts": 1, "d_shared_expert": 10, "router": SIGMOID}},
    "qk_norm full": {"ffn": MLP, "qk_norm": "full"},
    "dense layers of widths 20 and 24": {"ffn": MLP, "moe_layers": {"every": 2}},
    "head_dim 6": {"ffn": SPARSE, "qk_norm": "full", "head_dim": 6},
}  # fmt: skip


@pytest.mark.parametrize("what", NO_CLASS)
def test_what_no_class_represents_is_refused_with_the_nearest_that_would_work(what):
    config = GPTConfig.model_validate(SIZES | NO_CLASS[what])
    with pytest.raises(ConvertError) as caught:
        pick_format("auto", config, "run")
    message = str(caught.value)
    assert what in message
    assert "nearest: " in message
    assert "no class of Hugging Face can represent this model" in message


@pytest.mark.parametrize(
    ("to", "case", "what"),
    [
        ("llama", "mixtral", "MoE layers (ffn.kind sparse): llama is dense"),
        ("mixtral", "llama", "no MoE layer: every mixtral has some"),
        ("mixtral", "qwen3_moe", "qk_norm head: mixtral has none; nearest: qwen3_moe"),
        ("mixtral", "qwen2_moe, v-moe", "router.normalize_weights false: mixtral divides by the sum"),
        ("mixtral", "qwen2_moe, gated", "shared experts: mixtral has none"),
        ("mixtral", "qwen2_moe, gated", "qkv_bias: mixtral has no biases"),
        ("olmoe", "qwen2_moe, switch, mixed layers", "dense layers beside MoE layers: olmoe has none"),
        ("glm4_moe", "mixtral", "router with a softmax: glm4_moe has a sigmoid"),
        ("qwen2_moe", "glm4_moe", "router with a sigmoid: qwen2_moe has a softmax; nearest: glm4_moe"),
        ("llama", "qwen3, wide heads", "qk_norm head: llama has none; nearest: qwen3"),
    ],
)
def test_what_one_class_does_not_represent_is_refused(to, case, what):
    with pytest.raises(ConvertError) as caught:
        pick_format(to, config_of(case), "run")
    assert what in str(caught.value)
    assert caught.value.next_step.startswith("--to ")


def test_llama_needs_heads_that_divide_the_width():
    config = GPTConfig.model_validate(SIZES | {"ffn": MLP, "num_heads": 3, "num_kv_heads": 3, "head_dim": 6})
    assert "head_dim 6 with d_model 16 and 3 heads" in FORMATS["llama"].problems(config)[0]


BAD_KEYS = {
    "sliding window": ("mixtral", {"sliding_window": 8}),
    "sliding window (100 tokens)": ("mixtral", {"use_sliding_window": False, "sliding_window": 100}),
    "sliding window (use_sliding_window)": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": None}),
    "sliding window (64 tokens)": ("qwen3", {"use_sliding_window": True, "sliding_window": 64}),
    "rope scaling (rope_scaling: linear)": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "differ between layers (rope_parameters: full_attention)": ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}),
    "rope_scaling.rope_theta 77": ("mixtral", {"rope_scaling": {"rope_type": "default", "rope_theta": 77.0}}),
    "num_local_experts is 8 but num_experts is 4": ("mixtral", {"num_experts": 4}),
    "architectures is 'LlamaForCausalLM'": ("llama", {"architectures": "LlamaForCausalLM"}),
    "rope_parameters is [1]": ("llama", {"rope_parameters": [1]}),
    "rope_parameters.rope_theta is inf": ("llama", {"rope_parameters": {"rope_theta": float("inf")}}),
    "rope_parameters.rope_theta is True": ("llama", {"rope_parameters": {"rope_theta": True}}),
    "rope_theta is 1000": ("llama", {"rope_parameters": None, "rope_theta": 10**400}),
    "rms_norm_eps is nan": ("llama", {"rms_norm_eps": float("nan")}),
    "norm_topk_prob is 'false'": ("olmoe", {"norm_topk_prob": "false"}),
    "tie_word_embeddings is 'true'": ("llama", {"tie_word_embeddings": "true"}),
    "attention_bias is 0": ("llama", {"attention_bias": 0}),
    "use_sliding_window is 'no'": ("qwen3", {"use_sliding_window": "no"}),
    "use_qk_norm is 1": ("glm4_moe", {"use_qk_norm": 1}),
    "routed_scaling_factor is '2'": ("glm4_moe", {"routed_scaling_factor": "2"}),
    "layer_types is 5": ("qwen3", {"layer_types": 5}),
    "mlp_only_layers is '0'": ("qwen3_moe", {"mlp_only_layers": "0"}),
    "decoder_sparse_step is 'x'": ("qwen3_moe", {"decoder_sparse_step": "x"}),
    "num_key_value_heads is True": ("llama", {"num_key_value_heads": True}),
    "head_dim is 4.0": ("llama", {"head_dim": 4.0}),
    "hidden_size is 1000000000000000": ("llama", {"hidden_size": 10**15}),
    "vocab_size is 1000000000000000000": ("llama", {"vocab_size": 10**18}),
    "eos_token_id is {'a': 1}": ("llama", {"eos_token_id": {"a": 1}}),
    "rope scaling (rope_parameters: yarn)": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}),
    "rope scaling (rope_scaling: dynamic)": ("llama", {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "partial_rotary_factor 0.5": ("glm4_moe", {"partial_rotary_factor": None, "rope_parameters": None}),
    "hidden_act gelu": ("llama", {"hidden_act": "gelu"}),
    "mlp_bias": ("llama", {"mlp_bias": True}),
    "biases in the attention": ("mixtral", {"attention_bias": True}),
    "layer_types sliding_attention": ("qwen3", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
    "quantization_config": ("llama", {"quantization_config": {"bits": 4}}),
    "clip_qkv": ("olmoe", {"clip_qkv": 8.0}),
    "num_nextn_predict_layers 1": ("glm4_moe", {"num_nextn_predict_layers": 1}),
    "only MixtralForCausalLM": ("mixtral", {"architectures": ["MixtralForSequenceClassification"]}),
    "no rules for the architecture gemma": ("llama", {"model_type": "gemma"}),
    "names no hidden_size": ("llama", {"hidden_size": None}),
    "num_hidden_layers is 'three'": ("llama", {"num_hidden_layers": "three"}),
    "vocab_size is None": ("llama", {"vocab_size": None}),
    "describes 500 layers": ("llama", {"num_hidden_layers": 500}),
    "3 layers and 1000000 experts": ("mixtral", {"num_local_experts": 1_000_000, "num_experts": None}),
    "no GPT of moecli has this shape": ("mixtral", {"num_experts_per_tok": 1}),
    "by config.json it should be [64, 24]": ("llama", {"hidden_size": 24}),
    "missing": ("llama", {"num_hidden_layers": 4}),
    "not part of the model": ("llama", {"num_hidden_layers": 2}),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_KEYS)
def test_a_config_that_can_not_be_or_contradicts_the_weights_is_refused(what, tmp_path):
    name, changes = BAD_KEYS[what]
    folder = write_folder(random_model(config_of(PLAIN[name])), tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConvertError) as caught:
        load_gpt(folder)
    assert what in str(caught.value)
    assert str(folder) in caught.value.where
    assert caught.value.exit_code == 2


def test_a_window_that_is_switched_off_is_none(tmp_path):
    folder = write_folder(random_model(config_of(PLAIN["qwen3_moe"])), tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_sliding_window": False, "sliding_window": 8}))
    model, _ = load_gpt(folder)
    verify(model, load_peer(folder), IDS_BS)


def test_a_class_may_be_named_among_others(tmp_path):
    folder = write_folder(random_model(config_of(PLAIN["mixtral"])), tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["MixtralModel", "MixtralForCausalLM"]}))
    model, _ = load_gpt(folder)
    verify(model, load_peer(folder), IDS_BS)


def test_too_little_memory_is_told_before_a_tensor_is_read(tmp_path, monkeypatch):
    folder = write_folder(random_model(config_of(PLAIN["llama"])), tmp_path)
    monkeypatch.setattr(device, "_total_memory_bytes", lambda device: 1000)
    monkeypatch.setattr(TensorFiles, "read", None)
    with pytest.raises(MachineError, match="reading the checkpoint needs about"):
        load_gpt(folder)


@pytest.mark.parametrize(
    ("content", "what"), [("[" * 100_000, "damaged"), ('{"a":' * 100_000, "damaged"), ("\xff", "damaged: not UTF-8 text")]
)
def test_a_config_that_is_no_json_is_refused(content, what, tmp_path):
    folder = write_folder(random_model(config_of(PLAIN["llama"])), tmp_path)
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ConvertError, match=what):
        load_gpt(folder)


def test_every_class_writes_the_names_of_older_readers_too():
    for name, fmt in FORMATS.items():
        content = fmt.config_json(config_of(PLAIN[name]), ModelFacts(VOCAB, SEQ_LEN, END_OF_TEXT, "float32"))
        assert content["torch_dtype"] == content["dtype"] == "float32"
        assert content["rope_theta"] == content["rope_parameters"]["rope_theta"]
        assert content["eos_token_id"] == END_OF_TEXT
        assert content["max_position_embeddings"] == SEQ_LEN
