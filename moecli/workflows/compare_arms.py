"""The arms of a comparison: an MoE, its dense twins, and any further recipes, each with what it will cost.

Knows recipes and how a twin's is derived from that of its MoE. Must not know run folders, nor train.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from moecli.data.config import DataConfig
from moecli.data.prepare import PreparedData, prepare
from moecli.errors import RecipeError
from moecli.model.dense_twin import CostMatch, Twin, dense_twin
from moecli.moe.layers import MLPConfig
from moecli.recipe.rules import WITHOUT_ROUTER
from moecli.recipe.schema import Recipe
from moecli.workflows.batches import training_batches
from moecli.workflows.plan import TrainingPlan, plan_training

Match = Literal["active", "flops", "total", "time"]

# The order in which twins are made, and the cost that their width matches. That of the same seconds is the active twin, trained for longer.
COST_OF_MATCH: dict[Match, CostMatch] = {"active": "active", "flops": "flops", "total": "total", "time": "active"}

# A curve needs points between which the eye and the speed-up may draw lines.
FEWEST_VALIDATIONS = 20
LONGEST_BASE_NAME = 80


@dataclass(frozen=True, slots=True)
class ArmRecipe:
    """A recipe that is compared, and the file that it came from."""

    recipe: Recipe
    source: str


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the models that are compared, the same but for the seed in each of its runs."""

    name: str
    match: Match | None
    """What a twin has in common with the MoE; None for the MoE itself and for further recipes."""
    recipe: Recipe
    """Of the first seed."""
    source: str | None
    """The file of a recipe that was given."""
    twin: Twin | None
    data: PreparedData
    plan: TrainingPlan
    is_length_known: bool = True
    """Whether `recipe.training.steps` is what will be trained: how long a twin trains in the same seconds has to be measured first."""

    @property
    def steps(self) -> int | None:
        return self.recipe.training.steps if self.is_length_known else None

    @property
    def tokens_per_step(self) -> int:
        return self.recipe.training.batch_size * self.recipe.data.seq_len

    @property
    def tokens(self) -> int | None:
        return None if self.steps is None else self.steps * self.tokens_per_step

    @property
    def flops_per_run(self) -> int:
        """Of training, without validation; with an unknown length those of the MoE's steps."""
        return self.recipe.training.steps * self.tokens_per_step * self.plan.cost.train_flops_per_token

    def with_steps(self, steps: int) -> Arm:
        """The same arm trained for so long, validated as often as the others."""
        training = self.recipe.training.model_copy(update={"steps": steps})
        recipe = _validated_often(self.recipe.model_copy(update={"training": training}))
        return replace(self, recipe=recipe, is_length_known=True)

    def recipe_of_seed(self, seed: int) -> Recipe:
        return self.recipe.model_copy(update={"seed": seed})


@dataclass(frozen=True, slots=True)
class Matched:
    """A twin that was asked for, and the arm that is of its width."""

    arm: str
    twin: Twin


def build_arms(base: ArmRecipe, others: Sequence[ArmRecipe], matches: Collection[Match]) -> tuple[list[Arm], dict[Match, Matched]]:
    """The MoE first, then its twins, then the others; and how each match is met. Twins of the same width share one arm.

    All arms get the MoE's seed. Names are unique, also where a file system does not tell capital letters apart.

    Raises:
        DataError: a text can't be read, or is too short for a batch.
    """
    texts = _Texts()
    wanted: list[Match] = [match for match in COST_OF_MATCH if match in matches or (match == "active" and "time" in matches)]
    reserved = [f"dense-{match}" for match in COST_OF_MATCH]
    moe = _arm(base.recipe.name, base.recipe, texts, source=base.source)
    names = [moe.name]
    arms = [moe]
    matched: dict[Match, Matched] = {}
    for match in wanted:
        cost, ahead = COST_OF_MATCH[match], moe.plan.cost.forward_passes_ahead
        twin = dense_twin(base.recipe.model, moe.plan.vocab_size, base.recipe.data.seq_len, cost, ahead)
        same = next((arm for arm in arms[1:] if arm.twin is not None and arm.twin.d_ff == twin.d_ff), None)
        if same is not None and match != "time":
            matched[match] = Matched(same.name, twin)
            continue
        names.append(_unused(f"dense-{match}", names))
        matched[match] = Matched(names[-1], twin)
        recipe = _twin_recipe(base.recipe, twin, match)
        arms.append(_arm(names[-1], recipe, texts, match=match, twin=twin, is_length_known=match != "time"))
    for other in others:
        names.append(_unused(other.recipe.name, [*names, *reserved]))
        recipe = other.recipe.model_copy(update={"seed": base.recipe.seed})
        arms.append(_arm(names[-1], recipe, texts, source=other.source))
    return arms, matched


def check_can_be_compared(base: ArmRecipe, others: Sequence[ArmRecipe]) -> None:
    """Raises RecipeError with all that makes these recipes no comparison."""
    problems = []
    if isinstance(base.recipe.model.ffn, MLPConfig):
        what = "this model is dense already, so it has no dense twin"
        problems.append(RecipeError(what, where=base.source, next_step="give the recipe of an MoE, and this one with --arm"))
    for other in others:
        if other.recipe.objective != base.recipe.objective:
            what = f"objective {other.recipe.objective} predicts other tokens than {base.recipe.objective} of {base.recipe.name}"
            problems.append(RecipeError(what, where=other.source, next_step="give recipes of one objective"))
        elif base.recipe.objective == "masked-lm" and other.recipe.training.mask_rate != base.recipe.training.mask_rate:
            what = f"training.mask_rate {other.recipe.training.mask_rate} hides other tokens than that of {base.recipe.name}"
            problems.append(RecipeError(what, where=other.source, allowed=str(base.recipe.training.mask_rate)))
        elif base.recipe.objective == "masked-lm" and other.recipe.data.seq_len != base.recipe.data.seq_len:
            what = f"data.seq_len {other.recipe.data.seq_len} hides other tokens than that of {base.recipe.name}"
            problems.append(RecipeError(what, where=other.source, allowed=str(base.recipe.data.seq_len)))
    _raise_all(problems)


def check_same_tokens_if_masked(arms: Sequence[Arm]) -> None:
    """Raises RecipeError where a masked-lm has text or tokens of its own: a sample of tokens has no bits per byte to be compared by."""
    what = "hidden tokens of other text or of another tokenizer can't be compared, and a sample of tokens has no bits per byte"
    next_step = f"give it the data section of {arms[0].name}"
    strangers = [arm for arm in arms if arm.recipe.objective == "masked-lm" and arm.data.fingerprint != arms[0].data.fingerprint]
    _raise_all([RecipeError(what, where=arm.source or arm.name, next_step=next_step) for arm in strangers])


def _raise_all(problems: Sequence[RecipeError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise RecipeError("\n".join(str(problem) for problem in problems))


class _Texts:
    """Each text is prepared once, however many arms read it."""

    def __init__(self) -> None:
        self._prepared: list[tuple[DataConfig, PreparedData]] = []

    def of(self, config: DataConfig) -> PreparedData:
        data = next((data for known, data in self._prepared if known == config), None)
        if data is None:
            data = prepare(config)
            self._prepared.append((config, data))
        return data


def _arm(
    name: str,
    recipe: Recipe,
    texts: _Texts,
    *,
    source: str | None = None,
    match: Match | None = None,
    twin: Twin | None = None,
    is_length_known: bool = True,
) -> Arm:
    data = texts.of(recipe.data)
    training_batches(recipe, data.train, data.tokenizer.vocab_size)  # is there enough text for one?
    plan = plan_training(recipe, data.tokenizer.vocab_size)
    return Arm(name, match, _validated_often(recipe), source, twin, data, plan, is_length_known)


def _twin_recipe(base: Recipe, twin: Twin, match: Match) -> Recipe:
    """Everything as it is, but for the model and for what only a router can use."""
    tree = base.model_dump()
    changes = {
        "name": f"{base.name[:LONGEST_BASE_NAME]}-dense-{match}",
        "allow_future_leak": False,
        "model": twin.config.model_dump(),
        "training": tree["training"] | WITHOUT_ROUTER,
    }
    return Recipe.model_validate(tree | changes)


def _validated_often(recipe: Recipe) -> Recipe:
    """The same training, looked at as often as every other arm, whatever its `evaluation.every` is.

    A curve of more points would find an equal loss earlier.
    """
    every = max(1, recipe.training.steps // FEWEST_VALIDATIONS)
    return recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"every": every})})


def _unused(name: str, taken: Sequence[str]) -> str:
    used = {other.casefold() for other in taken}
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return next(candidate for candidate in (name, *numbered) if candidate.casefold() not in used)
