"""How a model is trained, as the recipe's `training` section holds it.

Knows which combinations are possible. Must not know the model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import Field

from moecli.config import Config, Fraction, NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt
from moecli.errors import FieldProblem
from moecli.model.device import DeviceName, Precision
from moecli.moe.balance_sums import Counts
from moecli.moe.balancing import BiasUpdateConfig
from moecli.training.schedule import SCHEDULES, CosineConfig, ScheduleConfig

Freezable = Literal["experts", "router", "all-but-router"]


class AdamWConfig(Config):
    """AdamW (arXiv 1711.05101)."""

    beta1: Fraction = 0.9
    """Decay of the mean of the gradient."""
    beta2: Fraction = 0.95
    """Decay of the mean of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the mean square."""
    weight_decay: NonNegativeFloat = 0.1
    """Per step and unit of learning rate, on matrices. Norms and biases never decay."""
    decay_router: bool = False
    """Let the weights of routers, gates and soft mixing decay too."""

    def problems(self) -> list[FieldProblem]:
        what = "a mean that forgets nothing"
        return [FieldProblem(f, what, allowed="0 or more, less than 1") for f in ("beta1", "beta2") if getattr(self, f) == 1.0]


class TrainingConfig(Config):
    """One optimizer, one schedule, one length."""

    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 16
    """Sequences per optimizer step."""
    gradient_accumulation: PositiveInt = 1
    """Micro-batches that a step is cut into, batch_size / gradient_accumulation sequences each."""
    learning_rate: PositiveFloat = 1e-3
    """Peak rate."""
    schedule: Annotated[ScheduleConfig, OneOf(SCHEDULES, default="cosine")] = CosineConfig()
    """The rate over the steps."""
    optimizer: AdamWConfig = AdamWConfig()
    """AdamW."""
    clip_norm: PositiveFloat | None = 1.0
    """Longest gradient, as the norm over all parameters; null for no limit."""
    balance_loss: NonNegativeFloat = 0.01
    """Weight of the load-balance loss (Switch), averaged over MoE layers; 1 is balanced."""
    balance_counts: Counts = "chosen"
    """Choices that it counts: all that were chosen, the first alone (GShard), or the unbiased top_k (DeepSeek-V3)."""
    importance_loss: NonNegativeFloat = 0.0
    """Weight of the squared CV of the experts' importance (Shazeer), averaged over MoE layers; 0 is balanced."""
    importance_of: Literal["weights", "probs"] = "weights"
    """Importance is the sum of an expert's combine weights (Shazeer), or of its router probabilities (V-MoE)."""
    load_loss: NonNegativeFloat = 0.0
    """Weight of the squared CV of the smooth estimate of the load (Shazeer), averaged over MoE layers; needs a router with noise."""
    balance_scope: Literal["sequence", "micro-batch", "global-batch"] = "micro-batch"
    """Tokens over which balance, importance and load are judged. A global batch in several micro-batches goes through the model twice."""
    bias_update: BiasUpdateConfig | None = None
    """Loss-free balancing after each step, for routers with a selection_bias; null leaves the bias alone."""
    z_loss: NonNegativeFloat = 0.001
    """Weight of the router z-loss (ST-MoE), averaged over MoE layers."""
    freeze: list[Freezable] = Field(default_factory=list)
    """Parts that keep their weights: experts (shared ones too), router (with gates, soft mixing and selection bias), or all but that."""
    mask_rate: Annotated[float, Interval(gt=0, lt=1)] = 0.15
    """Share of each sequence's tokens that is predicted, at least one token; for objective masked-lm."""
    precision: Precision = "float32"
    """Precision of matrix products, logits included; weights and the router are float32 always, and losses are taken in float32."""
    compile: bool = False
    """Run the model through torch.compile."""
    recompute_activations: bool = False
    """Keep the input of each block alone between the passes, and compute the rest again in backward: less memory, more time."""
    device: DeviceName = "auto"
    """Where to train; auto takes an accelerator if there is one."""
    log_every: PositiveInt = 10
    """Steps between lines in metrics.jsonl."""
    checkpoint_every: NonNegativeInt = 500
    """Steps between checkpoints; 0 for one at the end alone."""
    keep_last: PositiveInt | None = None
    """Newest checkpoints that stay on the disk; null for all."""
    keep_best: bool = False
    """Save at each validation with the lowest loss so far, and keep the best one, to which checkpoints/best points."""
    on_non_finite: Literal["stop", "rewind"] = "stop"
    """When loss, gradient, router logits or weights are not finite: end, or go on from the last checkpoint at a lower rate."""
    rewind_factor: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    """What each rewind multiplies the learning rate by, from there to the end."""
    max_rewinds: PositiveInt = 3
    """Rewinds after which training ends."""

    @property
    def micro_batch_size(self) -> int:
        """Sequences that go through the model at once."""
        return self.batch_size // self.gradient_accumulation

    def problems(self) -> list[FieldProblem]:
        problems = []
        if {"router", "all-but-router"} <= set(self.freeze):
            problems.append(FieldProblem("freeze", "leaves nothing to train", allowed="router or all-but-router, not both"))
        if self.batch_size % self.gradient_accumulation:
            what = f"does not divide batch_size ({self.batch_size})"
            problems.append(FieldProblem("gradient_accumulation", what, allowed="a divisor of batch_size", involves=("batch_size",)))
        return problems
