"""Settings of the routing that a trained model can be evaluated with: experts per token, and the capacity of the experts.

Knows the config of a sparse block. Must not know checkpoints, text, or how settings are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from moecli.errors import FieldProblem
from moecli.moe.capacity import CapacityConfig
from moecli.moe.routers.base import TokenChoiceConfig
from moecli.moe.sparse import SparseMoEConfig


@dataclass(frozen=True, slots=True)
class RoutingSetting:
    """One way to route in evaluation."""

    top_k: float
    """Experts per token; where experts choose tokens, their average number (`experts_per_token`)."""
    capacity_factor: float | None
    """None: dropless."""

    @property
    def order(self) -> tuple[float, float]:
        """Sorts settings by experts per token, then by room, dropless last."""
        return self.top_k, float("inf") if self.capacity_factor is None else self.capacity_factor


def trained_setting(config: SparseMoEConfig) -> RoutingSetting:
    """What the recipe says."""
    return RoutingSetting(getattr(config.router, _top_k_field(config)), config.capacity.eval_factor if config.capacity else None)


def sweep_settings(config: SparseMoEConfig, top_ks: Sequence[float], capacity_factors: Sequence[float | None]) -> list[RoutingSetting]:
    """Every combination, with the trained value where a list is empty, and the trained setting among them; each once, in order."""
    trained = trained_setting(config)
    chosen = {RoutingSetting(*pair) for pair in product(top_ks or [trained.top_k], capacity_factors or [trained.capacity_factor])}
    return sorted(chosen | {trained}, key=lambda setting: setting.order)


def sweep_problems(
    config: SparseMoEConfig,
    top_ks: Sequence[float],
    capacity_factors: Sequence[float | None],
    *,
    batch_size: int,
    seq_len: int,
) -> list[FieldProblem]:
    """What is wrong with values to sweep, all of it; the fields of the problems are `top_k` and `capacity_factor`.

    Args:
        config: as trained.
        top_ks: experts per token, above 0.
        capacity_factors: above 0; None for dropless.
        batch_size: sequences that go through the model at once.
        seq_len: their tokens.
    """
    problems = [problem for top_k in dict.fromkeys(top_ks) for problem in _top_k_problems(config, top_k, batch_size, seq_len)]
    if capacity_factors and config.router.fixes_load:
        values = ", ".join("none" if factor is None else f"{factor:g}" for factor in capacity_factors)
        what = f"{values}: the {config.router.kind} router gives every expert the same number of tokens, a capacity has nothing to limit"
        problems.append(FieldProblem("capacity_factor", what, allowed="other experts per token alone"))
    return problems


def with_setting(config: SparseMoEConfig, setting: RoutingSetting) -> SparseMoEConfig:
    """The config with this setting and all else as trained, `normalize_weights` too.

    A capacity that the recipe does not have is counted per sequence, earlier tokens first, which is causal, and what overflows is dropped.
    Built without the rules of training: with one expert per token, normalised weights of 1 are no mistake any more. The factor of training
    is set too, so that the config's `leaks()` tell of this evaluation alone.
    """
    is_token_choice = isinstance(config.router, TokenChoiceConfig)
    top_k = int(setting.top_k) if is_token_choice else float(setting.top_k)
    router = config.router.model_copy(update={_top_k_field(config): top_k})
    capacity = None
    if setting.capacity_factor is not None:
        factors = {"factor": setting.capacity_factor, "eval_factor": setting.capacity_factor}
        capacity = (config.capacity or CapacityConfig()).model_copy(update=factors)
    return config.model_copy(update={"router": router, "capacity": capacity})


def _top_k_problems(config: SparseMoEConfig, top_k: float, batch_size: int, seq_len: int) -> list[FieldProblem]:
    if isinstance(config.router, TokenChoiceConfig) and not float(top_k).is_integer():
        what = f"{top_k:g}: the {config.router.kind} router takes whole experts"
        return [FieldProblem("top_k", what, allowed=f"1 to num_experts ({config.num_experts})")]
    router = with_setting(config, RoutingSetting(top_k, None)).router
    problems = router.problems_with(config.num_experts)
    problems = problems or router.problems_with_batches({"evaluation.batch_size": batch_size}, seq_len, config.num_experts)
    return [_told_by_number(problem, top_k, is_own=problem.field == _top_k_field(config)) for problem in problems]


def _top_k_field(config: SparseMoEConfig) -> str:
    return "top_k" if isinstance(config.router, TokenChoiceConfig) else "experts_per_token"


def _told_by_number(problem: FieldProblem, top_k: float, *, is_own: bool) -> FieldProblem:
    """A router's problem as one of the number: all else, the groups that experts are chosen from for one, stays as trained."""
    if is_own:
        return FieldProblem("top_k", f"{top_k:g}: {problem.what}", allowed=problem.allowed)
    return FieldProblem("top_k", f"{top_k:g}: {problem.field} {problem.what}", allowed="a smaller number")
