"""`moecli train`.

Knows its options and how to show a training. Must not know how training works.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moecli.cli import console, launcher
from moecli.cli.options import JsonOption, SetOption
from moecli.cli.plan_options import MOST_PROCESSES, check_plan_options
from moecli.errors import MoecliError

if TYPE_CHECKING:
    from moecli.parallel.world import World
    from moecli.recipe.load import LoadedRecipe
    from moecli.recipe.schema import Recipe

EPILOG = "Examples: `moecli train quickstart`, `moecli train my.yaml --set training.steps=50 --out runs/first`, and with --resume to go on."


def train_command(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships with moecli.")],
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: outputs/<name>/<time>.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or with the newest run of this name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count parameters, FLOPs and bytes; train nothing.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Watch ten steps: a table and a trace of where their time goes; no run.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_PROCESSES, help="With --dry-run: count for each of so many processes too.", show_default=False),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(metavar="GB/S", help="With --processes: 10^9 bytes/s out of a process; adds seconds of exchange.", show_default=False),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(metavar="TFLOP/S", help="With --processes: what a device reaches; adds seconds of computation.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe; write a run folder with checkpoint, metrics and routing report."""
    from moecli.recipe.load import load_recipe

    with launcher.told_once():
        _check_modes(dry_run, profile, resume)
        check_plan_options(dry_run, processes, bandwidth, speed)
        _check_finds_run_again(out)
    if dry_run or profile:
        launcher.refuse(f"moecli train {'--dry-run' if dry_run else '--profile'}")
    if launcher.has_started_several():
        from moecli.cli.train_world import met

        with met(lambda: load_recipe(recipe, overrides or [])) as (world, loaded):
            _train(loaded, out, resume, as_json, world)
        return
    loaded = load_recipe(recipe, overrides or [])
    if dry_run or profile:
        console.print_notices(console.for_people(as_json), loaded.notices)
    if dry_run:
        _dry_run(loaded.recipe, processes, bandwidth, speed, as_json)
    elif profile:
        _profile(loaded.recipe, out, as_json)
    else:
        _train(loaded, out, resume, as_json, None)


def _check_modes(dry_run: bool, profile: bool, resume: bool) -> None:
    if dry_run + profile + resume > 1:
        given = [name for name, is_given in (("--dry-run", dry_run), ("--profile", profile), ("--resume", resume)) if is_given]
        raise MoecliError(
            f"{' and '.join(given)} can't go together", where=given[-1], allowed="one of them", next_step="leave the others out"
        )


def _check_finds_run_again(out: Path | None) -> None:
    if out is None and launcher.may_restart():
        what = "torchrun may start the processes again, and then they have to find the run that they began"
        raise MoecliError(what, where="--max-restarts", allowed="with --out FOLDER", next_step="add --out after moecli train RECIPE")


def _train(loaded: LoadedRecipe, out: Path | None, resume: bool, as_json: bool, world: World | None) -> None:
    from moecli.cli.stop import StopRequest
    from moecli.cli.train_progress import TrainProgress
    from moecli.cli.train_summary import print_summary
    from moecli.workflows.events import Event, TrainingStarted
    from moecli.workflows.train import train

    people = console.for_people(as_json)
    console.print_notices(people, loaded.notices)
    stop = StopRequest(people)

    def listener(event: Event) -> None:
        if isinstance(event, TrainingStarted):
            stop.begin()
        with stop.unheard():
            progress.show(event)

    def agreed(number: int) -> int:
        return number if world is None else max(world.gather_objects(number))

    with TrainProgress(people) as progress, stop.armed(agreed):
        result = train(
            loaded.recipe,
            out=out,
            resume=resume,
            restarted=launcher.has_restarted(),
            listener=listener,
            should_stop=stop.is_requested,
            world=world,
        )
    if not launcher.is_first():
        return
    if as_json:
        console.print_json(result.to_json())
    else:
        print_summary(people, result)


def _profile(recipe: Recipe, out: Path | None, as_json: bool) -> None:
    from moecli.cli.train_profile import print_profile
    from moecli.cli.train_progress import TrainProgress
    from moecli.workflows.profile import profile_training

    people = console.for_people(as_json)
    with TrainProgress(people) as progress:
        result = profile_training(recipe, out=out, listener=progress.show)
    if as_json:
        console.print_json(result.to_json())
    else:
        print_profile(people, result)


def _dry_run(recipe: Recipe, processes: int | None, bandwidth: float | None, speed: float | None, as_json: bool) -> None:
    from moecli.cli.plan_view import print_plan
    from moecli.parallel.plan import Speeds
    from moecli.recipe.leak_notes import leak_notes
    from moecli.workflows.plan import plan_parallel_training, plan_training

    if processes is None:
        plan = plan_training(recipe)
    else:
        speeds = Speeds(None if bandwidth is None else 1e9 * bandwidth, None if speed is None else 1e12 * speed)
        plan = plan_parallel_training(recipe, processes, speeds)
    if as_json:
        console.print_json(plan.to_json())
    else:
        print_plan(console.stdout(), plan, leak_notes(recipe))
