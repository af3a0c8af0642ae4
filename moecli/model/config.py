"""The shape of a GPT, as the recipe's `model` section holds it.

Knows which shapes are possible. Must not know the vocabulary: its size comes from the tokenizer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Interval

from moecli.config import LARGEST, Config, NonNegativeInt, OneOf, PositiveFloat, PositiveInt
from moecli.errors import FieldProblem
from moecli.moe.activations import ActivationName
from moecli.moe.layers import FEED_FORWARDS, FeedForwardConfig, MLPConfig

FEED_FORWARD_CONFIGS = {kind: feed_forward.config_class for kind, feed_forward in FEED_FORWARDS.items()}

# 4 * d_model, the default width of feed-forward networks, has to be a number that a config can hold.
ModelWidth = Annotated[int, Interval(ge=1, le=LARGEST // 4)]
# Several times the deepest models there are. What a model costs is counted layer by layer, also where it is refused for its size then.
Depth = Annotated[int, Interval(ge=1, le=512)]


class MoELayersConfig(Config):
    """Which layers get the block of `model.ffn`; the others get an mlp of width `model.dense_d_ff`. Default: all of them."""

    first_dense: NonNegativeInt = 0
    """The first so many layers stay dense, as in DeepSeek."""
    every: PositiveInt = 1
    """Of the layers after those, every n-th is MoE: 2 makes it every other layer, beginning with the second, as in GShard."""
    indices: list[NonNegativeInt] | None = None
    """An explicit list of layers, counted from 0, instead of the two rules above."""

    def problems(self) -> list[FieldProblem]:
        if self.indices is None or not (self.first_dense or self.every > 1):
            return []
        what = "an explicit list leaves nothing for first_dense and every to choose"
        return [FieldProblem("indices", what, allowed="indices alone, or first_dense and every", involves=("first_dense", "every"))]

    def includes(self, layer: int) -> bool:
        """Whether this layer, counted from 0, gets the block of `model.ffn`."""
        if self.indices is not None:
            return layer in self.indices
        return layer >= self.first_dense and (layer - self.first_dense + 1) % self.every == 0


class GPTConfig(Config):
    """A pre-norm transformer: RMSNorm, RoPE, grouped-query attention, a feed-forward block of any kind. No dropout."""

    d_model: ModelWidth = 128
    """Width of the residual stream."""
    num_layers: Depth = 4
    """Blocks; 512 at most."""
    num_heads: PositiveInt = 4
    """Query heads."""
    num_kv_heads: PositiveInt | None = None
    """Key and value heads, each shared by num_heads / num_kv_heads query heads. Default: num_heads."""
    head_dim: PositiveInt | None = None
    """Width of one head. Default: d_model / num_heads."""
    qk_norm: Literal["none", "head", "full"] = "none"
    """RMSNorm on queries and keys: over each head (Qwen3) or over all heads together (OLMoE)."""
    qkv_bias: bool = False
    """Add a bias to queries, keys and values (Qwen1.5 and Qwen2)."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary frequencies."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    activation: ActivationName = "swiglu"
    """Activation of every feed-forward network and expert."""
    tie_embeddings: bool = False
    """Use the token embedding as output layer too."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights; projections into the residual stream get it divided by sqrt(2 * num_layers)."""
    ffn: Annotated[FeedForwardConfig, OneOf(FEED_FORWARD_CONFIGS, default="mlp")] = MLPConfig()
    """The feed-forward block."""
    moe_layers: MoELayersConfig = MoELayersConfig()
    """Which layers get it."""
    dense_d_ff: PositiveInt | None = None
    """Hidden width of the mlp in the layers that moe_layers leaves out. Default: 4 * d_model."""
    causal: bool | None = None
    """Whether tokens attend to those before them alone. Default: what the objective needs, true for causal-lm, false for masked-lm."""

    @property
    def is_causal(self) -> bool:
        """Without an objective, as in checkpoints from before there were two, null means causal."""
        return self.causal is not False

    def model_post_init(self, context: Any, /) -> None:
        object.__setattr__(self, "ffn", self.ffn.with_default_widths(self.d_model))
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.dense_d_ff is None:
            object.__setattr__(self, "dense_d_ff", 4 * self.d_model)
        if self.head_dim is None and self.d_model % self.num_heads == 0:
            object.__setattr__(self, "head_dim", self.d_model // self.num_heads)
        super().model_post_init(context)

    def problems(self) -> list[FieldProblem]:
        return [*self._head_problems(), *self._layer_problems()]

    def ffn_of_layer(self, layer: int) -> FeedForwardConfig:
        """The feed-forward config of one layer, counted from 0."""
        return self.ffn if self.moe_layers.includes(layer) else MLPConfig(d_ff=self.dense_d_ff)

    def _head_problems(self) -> list[FieldProblem]:
        problems = []
        if self.head_dim is None:
            what = f"does not divide d_model ({self.d_model})"
            allowed = f"a divisor of d_model ({_divisors(self.d_model)}), or any number with head_dim given"
            problems.append(FieldProblem("num_heads", what, allowed=allowed, involves=("d_model",)))
        elif self.head_dim % 2:
            what = f"heads of odd width {self.head_dim}: rotary embeddings turn pairs of features"
            problems.append(FieldProblem("head_dim", what, allowed="an even number", involves=("d_model", "num_heads")))
        assert self.num_kv_heads is not None
        if self.num_heads % self.num_kv_heads:
            what = f"does not divide num_heads ({self.num_heads})"
            allowed = f"a divisor of num_heads ({_divisors(self.num_heads)})"
            problems.append(FieldProblem("num_kv_heads", what, allowed=allowed, involves=("num_heads",)))
        return problems

    def _layer_problems(self) -> list[FieldProblem]:
        too_high = [index for index in self.moe_layers.indices or [] if index >= self.num_layers]
        if too_high:
            what = f"there is no layer {too_high[0]}"
            allowed = f"0 to num_layers - 1 ({self.num_layers - 1})"
            return [FieldProblem("moe_layers.indices", what, allowed=allowed, involves=("num_layers",))]
        if not any(self.moe_layers.includes(layer) for layer in range(self.num_layers)):
            what = f"leaves none of the {self.num_layers} layers to ffn.kind {self.ffn.kind}"
            return [FieldProblem("moe_layers", what, allowed="at least one layer of ffn.kind", involves=("num_layers", "ffn.kind"))]
        return []


def _divisors(number: int) -> str:
    if number > 65536:
        return "..."
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)
