"""What every class of Hugging Face is: a table of rules, limits, and a config.json in both directions.

Knows what the decoders of Hugging Face have in common. Must not know any class by name, nor files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ValidationError

from moecli.convert.config_reader import ConfigReader
from moecli.convert.features import mlp_widths, moe_features, moe_layers, problems_for_all
from moecli.convert.formats.limits import Limits, problems_of_limits
from moecli.convert.rules import Filler, Rule
from moecli.errors import ConvertError
from moecli.model.config import GPTConfig, MoELayersConfig

DECODER_RULES = (
    Rule("embedding.weight", ("model.embed_tokens.weight",)),
    Rule("norm.weight", ("model.norm.weight",)),
    Rule("lm_head.weight", ("lm_head.weight",)),
    Rule("blocks.{layer}.attention_norm.weight", ("model.layers.{layer}.input_layernorm.weight",)),
    Rule("blocks.{layer}.ffn_norm.weight", ("model.layers.{layer}.post_attention_layernorm.weight",)),
    # q_proj, k_proj, v_proj, o_proj, q_norm, k_norm; weights and biases.
    Rule("blocks.{layer}.attention.{part}.{kind}", ("model.layers.{layer}.self_attn.{part}.{kind}",)),
)
MLP_RULES = (
    Rule("blocks.{layer}.ffn.in_proj.weight", ("model.layers.{layer}.mlp.gate_proj.weight", "model.layers.{layer}.mlp.up_proj.weight")),
    Rule("blocks.{layer}.ffn.out_proj.weight", ("model.layers.{layer}.mlp.down_proj.weight",)),
)


def expert_rules(block: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """Of a block ("mlp") with a router `gate` and experts, whose three projections have these names."""
    router, experts = f"model.layers.{{layer}}.{block}.gate.weight", f"model.layers.{{layer}}.{block}.experts.{{expert}}"
    return (
        Rule("blocks.{layer}.ffn.router.weight", (router,)),
        Rule("blocks.{layer}.ffn.gate_weight", (router,)),  # of ffn.kind dense
        Rule("blocks.{layer}.ffn.router.noise_weight", ()),  # evaluation has no noise
        Rule("blocks.{layer}.ffn.experts.in_proj", (f"{experts}.{gate}.weight", f"{experts}.{up}.weight")),
        Rule("blocks.{layer}.ffn.experts.out_proj", (f"{experts}.{down}.weight",)),
    )


# How newer versions of transformers hold the experts in memory, of every class alike; `save_original_format=False` writes them so.
FUSED_EXPERTS = ".mlp.experts.gate_up_proj"
_FUSED_RULES = (
    Rule("blocks.{layer}.ffn.router.weight", ("model.layers.{layer}.mlp.gate.weight",)),
    Rule("blocks.{layer}.ffn.experts.in_proj", (f"model.layers.{{layer}}{FUSED_EXPERTS}",)),
    Rule("blocks.{layer}.ffn.experts.out_proj", ("model.layers.{layer}.mlp.experts.down_proj",)),
)


def with_fused_experts(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The table of a class for a folder whose experts are stacked, as ours are."""
    fused = {rule.ours for rule in _FUSED_RULES}
    return (*(rule for rule in rules if rule.ours not in fused), *_FUSED_RULES)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a config.json says beside the shape."""

    vocab_size: int
    max_seq_len: int
    """Tokens that it was trained on at once."""
    end_of_text_id: int | list[int] | None
    dtype: str
    begin_of_text_id: int | None = None
    padding_id: int | None = None


class Format(ABC):
    """One class of Hugging Face."""

    model_type: ClassVar[str]
    """What config.json calls it; also its name in FORMATS."""
    architecture: ClassVar[str]
    limits: ClassVar[Limits]
    rules: ClassVar[tuple[Rule, ...]]
    defaults: ClassVar[Mapping[str, Any]]
    """What the class takes for keys that a config.json leaves out, where that decides what is computed."""
    bias_key: ClassVar[str | None] = "attention_bias"
    """The key of biases on queries, keys and values; None where the class has none."""
    biases_output: ClassVar[bool] = True
    """Whether that key adds one to the attention's output too."""

    def problems(self, config: GPTConfig) -> list[str]:
        """The features of a model that this class can't represent, each with the nearest class or setting; empty where there are none."""
        return problems_for_all(config) or problems_of_limits(config, self.model_type, self.limits)

    def is_akin(self, config: GPTConfig) -> bool:
        """Whether the class has layers of the model's kind, however they are set up: dense, or with its router's scores."""
        return self.limits.score == (moe_features(config).score if moe_layers(config) else None)

    def rules_of(self, config: GPTConfig) -> tuple[Rule, ...]:
        """The table for a model that has no problems."""
        return self.rules

    def fillers(self, config: GPTConfig) -> list[Filler]:
        """Tensors that the class has beside those of a GPT."""
        if not (self.biases_output and config.qkv_bias):
            return []
        return [Filler(f"model.layers.{layer}.self_attn.o_proj.bias", (config.d_model,)) for layer in range(config.num_layers)]

    def config_json(self, config: GPTConfig, facts: ModelFacts) -> dict[str, Any]:
        """The content of config.json, for newer and older readers, of a model that has no problems."""
        common = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "dtype": facts.dtype,
            "torch_dtype": facts.dtype,
            "vocab_size": facts.vocab_size,
            "hidden_size": config.d_model,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": facts.max_seq_len,
            "initializer_range": config.init_std,
            "rms_norm_eps": config.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": config.tie_embeddings,
            "bos_token_id": facts.begin_of_text_id,
            "eos_token_id": facts.end_of_text_id,
            "pad_token_id": facts.padding_id,
            "attention_dropout": 0.0,
            "use_cache": True,
        }
        bias = {} if self.bias_key is None else {self.bias_key: config.qkv_bias}
        return common | bias | self.own_keys(config)

    def gpt_config(self, content: Mapping[str, Any], where: str, is_zero: Callable[[str], bool]) -> GPTConfig:
        """The shape that a config.json describes.

        Args:
            content: of config.json.
            where: the file, for messages.
            is_zero: see ConfigReader; what a class computes can hang on it.

        Raises:
            ConvertError: it names a feature that a GPT doesn't have, or contradicts itself.
        """
        reader = ConfigReader(content, self.defaults, where, is_zero)
        architectures = reader.optional_list("architectures", str) or [self.architecture]
        named = f"{', '.join(architectures)} (of this model_type only {self.architecture})"
        reader.refuse_unless(self.architecture in architectures, named)
        reader.refuse_common_features()
        theta = reader.rope_theta()
        num_heads = reader.number("num_attention_heads")
        shape = {
            "d_model": reader.number("hidden_size"),
            "num_layers": reader.number("num_hidden_layers"),
            "num_heads": num_heads,
            "num_kv_heads": reader.optional_number("num_key_value_heads", num_heads),
            "head_dim": reader.optional_number("head_dim", self.defaults.get("head_dim")),
            "qkv_bias": self.bias_key is not None and reader.flag(self.bias_key),
            "rope_theta": theta,
            "norm_eps": reader.positive("rms_norm_eps"),
            "tie_embeddings": reader.flag("tie_word_embeddings"),
            "init_std": reader.optional("initializer_range", 0.02) or 0.02,
        }
        if self.bias_key is None:
            reader.refuse_unless(not reader.optional_flag("attention_bias"), "biases in the attention of this class")
        feed_forward = self.feed_forward(reader)
        reader.check()
        try:
            return GPTConfig.model_validate(shape | feed_forward)
        except ValidationError as error:
            reasons = "; ".join(f"{'.'.join(map(str, part['loc']))} {part['msg']}".strip() for part in error.errors())
            what = f"no GPT of moecli has this shape: {' '.join(reasons.split())[:400]}"
            raise ConvertError(what, where=where, next_step="give another checkpoint") from error

    @abstractmethod
    def own_keys(self, config: GPTConfig) -> dict[str, Any]:
        """What this class has in config.json beside what all have."""

    @abstractmethod
    def feed_forward(self, reader: ConfigReader) -> dict[str, Any]:
        """The fields of GPTConfig that the class decides by keys of its own: qk_norm, ffn, moe_layers, dense_d_ff."""


def dense_layers(config: GPTConfig) -> list[int]:
    """The layers, counted from 0, that are plain MLPs."""
    routed = moe_layers(config)
    return [layer for layer in range(config.num_layers) if layer not in routed]


def dense_width(config: GPTConfig) -> int:
    """Hidden width of the plain MLPs; where there are none, what they would have."""
    widths = mlp_widths(config)
    assert config.dense_d_ff is not None
    return widths[0] if widths else config.dense_d_ff


def without_layers(num_layers: int, dense: list[int]) -> dict[str, Any]:
    """`moe_layers` of a GPT whose layers are all MoE but for these."""
    routed = [layer for layer in range(num_layers) if layer not in dense]
    if routed == list(range(len(dense), num_layers)):
        return MoELayersConfig(first_dense=len(dense)).model_dump()
    return MoELayersConfig(indices=routed).model_dump()


def softmax_router(reader: ConfigReader) -> dict[str, Any]:
    """`ffn.router` of a class with a softmax router."""
    return {"kind": "topk", "top_k": reader.number("num_experts_per_tok"), "normalize_weights": reader.flag("norm_topk_prob")}


def softmax_keys(config: GPTConfig, *, expert_width_key: str) -> dict[str, Any]:
    """The keys of a class with a softmax router, by both names of the number of experts."""
    features = moe_features(config)
    return {
        "num_experts": features.num_experts,
        "num_local_experts": features.num_experts,
        "num_experts_per_tok": features.top_k,
        "norm_topk_prob": features.is_normalized,
        expert_width_key: features.d_expert,
        "output_router_logits": False,
    }
