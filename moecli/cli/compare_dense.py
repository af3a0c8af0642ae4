"""`moecli compare-dense`.

Knows its options. Must not know how twins are made, trained or judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from moecli.cli import console
from moecli.cli.options import JsonOption, SetOption, split_list
from moecli.errors import Interrupted

if TYPE_CHECKING:
    from moecli.recipe.load import LoadedRecipe
    from moecli.workflows.compare_plan import ComparisonPlan, Match

EPILOG = (
    "Examples: `moecli compare-dense quickstart --plan`, `moecli compare-dense my.yaml --match active,total --seeds 5`, "
    "`moecli compare-dense mixtral --match none --arm switch --arm soft-moe`. "
    "A comparison that was stopped goes on with the same command; with more seeds, matches or arms only what is missing runs."
)
NO_TWINS = "none"
MOST_SEEDS = 1000


def compare_dense_command(
    recipe: Annotated[str, typer.Argument(help="The recipe of an MoE: a file, or the name of one that ships with moecli.")],
    overrides: SetOption = None,
    match: Annotated[
        list[str] | None,
        typer.Option(
            "--match",
            metavar="NAME,NAME,...",
            help="What dense twins have in common with the MoE: active (parameters per token), flops (training FLOPs per token), "
            f'total (parameters), time (seconds of training); "{NO_TWINS}": no twins. Default: active,time.',
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each arm, with seeds that count up from the recipe's.")] = 3,
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="RECIPE", help="A further recipe to compare with; --set holds for it too. Can be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of runs and report. Default: outputs/<name>/compare-dense.", show_default=False)
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the arms, their matching and what they cost; train nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Is the MoE worth it? Trains it and its dense twins over seeds, and compares loss, speed and memory."""
    _check_seeds(seeds)
    matches = _matches(match, has_arms=bool(arm))
    from moecli.workflows.compare_plan import ArmRecipe, plan_comparison

    loaded = _load(recipe, arm or [], overrides or [])
    people = console.stderr()
    console.print_notices(people, list(dict.fromkeys(notice for one in loaded for notice in one.notices)))
    people.print("reading and tokenizing the text", highlight=False)
    base, *others = [ArmRecipe(one.recipe, one.source) for one in loaded]
    planned = plan_comparison(base, others, matches=matches, num_seeds=seeds, out=out)
    if not plan:
        _run(planned, as_json)
    elif as_json:
        console.print_json(planned.to_json())
    else:
        from moecli.cli.compare_dense_summary import print_plan

        print_plan(console.stdout(), planned.to_json())


def _run(plan: ComparisonPlan, as_json: bool) -> None:
    from moecli.cli.compare_dense_progress import CompareProgress
    from moecli.cli.compare_dense_summary import print_comparison
    from moecli.cli.stop import StopRequest
    from moecli.workflows.compare_dense import GO_ON, compare_dense
    from moecli.workflows.events import Event, RunsDone, TrainingStarted

    people = console.stderr()
    stop = StopRequest(people)
    done = sum(run.state == "finished" for run in plan.runs)
    with stop.unheard():
        people.print(f"{len(plan.runs)} runs, {done} of them done; folder {plan.folder}", markup=False, highlight=False, soft_wrap=True)
    are_runs_done = False

    def listener(event: Event) -> None:
        nonlocal are_runs_done
        if isinstance(event, TrainingStarted):
            stop.begin()
        if isinstance(event, RunsDone):
            are_runs_done = True
            stop.end()
        with stop.unheard():
            progress.show(event)

    try:
        with CompareProgress(people) as progress, stop.armed():
            comparison = compare_dense(plan, listener, stop.is_requested)
    except KeyboardInterrupt:
        if are_runs_done:
            raise Interrupted("the runs are done; measuring is stopped, and no report is written", next_step=GO_ON) from None
        raise
    if as_json:
        console.print_json(comparison.to_json())
    else:
        print_comparison(console.stdout(), comparison.content, comparison.files)


def _check_seeds(seeds: int) -> None:
    if seeds < 1:
        what = f"{seeds} runs of each arm show nothing: give 1 or more; from 2 on there is an interval, and 3 are the default"
        raise typer.BadParameter(what, param_hint="--seeds")
    if seeds > MOST_SEEDS:
        raise typer.BadParameter(f"{seeds:,} runs of each arm are too many: give {MOST_SEEDS:,} or fewer", param_hint="--seeds")


def _matches(texts: Sequence[str] | None, *, has_arms: bool) -> list[Match]:
    """The names after --match, each once.

    Raises:
        BadParameter: names every one that there is not, with what is allowed; or nothing is left to compare with.
    """
    from moecli.recipe.wording import nearest
    from moecli.workflows.compare_plan import Match

    if texts is None:
        return ["active", "time"]
    known: tuple[Match, ...] = get_args(Match)
    names = split_list(texts)
    chosen = {name.lower() for name in names}
    if chosen == {NO_TWINS} and has_arms:
        return []
    if chosen == {NO_TWINS}:
        raise typer.BadParameter(f"with {NO_TWINS} there is nothing to compare with: give recipes with --arm", param_hint="--match")
    wrong = [name for name in names if name.lower() not in known]
    if not wrong:
        return [name for name in known if name in chosen]
    shown = [f"'{console.visible(name, 40)}'" + (f" (did you mean {near}?)" if (near := nearest(name, known)) else "") for name in wrong]
    allowed = f'{", ".join(known)}, or "{NO_TWINS}" alone'
    raise typer.BadParameter(f"{', '.join(shown)}: expected a comma list of {allowed}", param_hint="--match")


def _load(recipe: str, arms: Sequence[str], overrides: Sequence[str]) -> list[LoadedRecipe]:
    """The recipes, the base first. An error says which recipe an override doesn't fit."""
    from moecli.errors import RecipeError
    from moecli.recipe.load import load_recipe

    loaded = [load_recipe(recipe, overrides)]
    for arm in arms:
        try:
            loaded.append(load_recipe(arm, overrides))
        except RecipeError as error:
            where = f"--arm {console.visible(arm)}" + (f": {error.where}" if error.where else "")
            raise RecipeError(error.what, where=where, allowed=error.allowed, next_step=error.next_step) from error
    return loaded
