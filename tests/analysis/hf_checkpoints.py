"""Tiny checkpoints of transformers' architectures with uneven routers, and each architecture's choice of experts written from its rule."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VOCAB = 64
NUM_EXPERTS = 8
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB,
    "max_position_embeddings": 32, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "num_experts_per_tok": 3,
}  # fmt: skip
SIGMOID = {
    "intermediate_size": 24, "moe_intermediate_size": 12, "n_routed_experts": NUM_EXPERTS, "n_shared_experts": 1,
    "n_group": 4, "topk_group": 2, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1,
}  # fmt: skip
QWEN = {"intermediate_size": 24, "moe_intermediate_size": 12, "num_experts": NUM_EXPERTS}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 12, "num_local_experts": NUM_EXPERTS},
    "olmoe": {"intermediate_size": 12, "num_experts": NUM_EXPERTS, "norm_topk_prob": False},
    "qwen2_moe": QWEN | {"shared_expert_intermediate_size": 12, "norm_topk_prob": False},
    "qwen3_moe": QWEN | {"head_dim": 4, "norm_topk_prob": True},
    "deepseek_v3": SIGMOID | LATENT,
    "glm4_moe": SIGMOID | {"head_dim": 4, "n_group": 2, "topk_group": 1},
    "gpt_oss": {"intermediate_size": 12, "num_local_experts": NUM_EXPERTS, "head_dim": 4, "sliding_window": 8},
    # Not looked at while the code was written: they only have the interface.
    "granitemoe": {"intermediate_size": 12, "num_local_experts": NUM_EXPERTS},
    "ernie4_5_moe": {"intermediate_size": 24, "moe_intermediate_size": 12, "moe_num_experts": NUM_EXPERTS, "moe_k": 3},
    "phimoe": {"intermediate_size": 12, "num_local_experts": NUM_EXPERTS, "num_experts_per_tok": 2},
    # Read as none that routes, or not at all.
    "llama": {"intermediate_size": 24},
    "qwen3": {"intermediate_size": 24, "head_dim": 6},
    "jetmoe": {"intermediate_size": 12, "num_local_experts": NUM_EXPERTS, "kv_channels": 4},
    "llama4_text": {"intermediate_size": 12, "intermediate_size_mlp": 24, "num_local_experts": NUM_EXPERTS, "head_dim": 4},
    "longcat_flash": LATENT | {
        "num_layers": 1, "ffn_hidden_size": 24, "expert_ffn_hidden_size": 12, "n_routed_experts": NUM_EXPERTS, "zero_expert_num": 2,
        "moe_topk": 3, "head_dim": 4,
    },
    "doge": {"intermediate_size": 24, "is_moe": True, "num_experts": 16},
}  # fmt: skip


def write_checkpoint(folder: Path, model_type: str, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """Writes a random model whose routers prefer some experts."""
    import transformers

    config = transformers.CONFIG_MAPPING[model_type](**SIZES | OPTIONS[model_type] | options)
    generator = torch.Generator().manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and "norm" not in name:
                is_router = name.endswith((".gate.weight", ".router.weight", ".router.layer.weight"))
                # What all tokens have in common makes some experts everybody's choice.
                tensor.normal_(mean=0.2 if "embed" in name else 0.0, std=1.0 if is_router else 0.3, generator=generator)
    model.to(dtype).save_pretrained(folder)
    return folder


def plain_model(folder: Path) -> nn.Module:
    """The same file as transformers alone reads it."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager", dtype="auto").eval()


def routing_modules(model: nn.Module) -> dict[int, nn.Module]:
    """From the layer to the module that holds router and experts."""
    names = ("mlp", "block_sparse_moe")
    blocks = [[getattr(layer, name) for name in names if hasattr(layer, name)] for layer in model.model.layers]
    return {number: found[0] for number, found in enumerate(blocks) if found and hasattr(found[0], "experts")}


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def expected_choice(config: Any, logits_E: Tensor, bias_E: Tensor | None) -> dict[int, float]:
    """One token's experts and their weights, from its router's logits."""
    logits = logits_E.double().tolist()
    top_k = config.num_experts_per_tok
    if bias_E is not None:
        return _sigmoid_choice(config, logits, bias_E.double().tolist())
    # Softmax: its denominator cancels where the weights are divided by their sum, and so in gpt-oss, which takes it over the chosen alone.
    chosen = sorted(range(len(logits)), key=lambda expert: -logits[expert])[:top_k]
    among = range(len(logits)) if not getattr(config, "norm_topk_prob", True) else chosen
    return {expert: math.exp(logits[expert]) / sum(math.exp(logits[other]) for other in among) for expert in chosen}


def _sigmoid_choice(config: Any, logits: list[float], bias: list[float]) -> dict[int, float]:
    """DeepSeek-V3, equations 13 to 16: the bias decides which groups and which experts, and is in no weight."""
    scores = [1 / (1 + math.exp(-logit)) for logit in logits]
    biased = [score + b for score, b in zip(scores, bias, strict=True)]
    size = len(scores) // config.n_group
    groups = [range(first, first + size) for first in range(0, len(scores), size)]
    groups.sort(key=lambda group: -sum(sorted(biased[expert] for expert in group)[-2:]))
    allowed = [expert for group in groups[: config.topk_group] for expert in group]
    chosen = sorted(allowed, key=lambda expert: -biased[expert])[: config.num_experts_per_tok]
    return {expert: config.routed_scaling_factor * scores[expert] / sum(scores[other] for other in chosen) for expert in chosen}
