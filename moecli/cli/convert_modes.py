"""The modes of `moecli convert`: which there are, which options each takes, and the options that several share.

Knows every option as it was typed. Must not know what a mode does.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

PANEL = "A run as the result (--to moecli, --upcycle, --mix, --resize)"


class Mode(StrEnum):
    """The value is how a user asks for it."""

    huggingface = "a conversion from or to Hugging Face"
    start = "--to moecli"
    upcycle = "--upcycle"
    mix = "--mix"
    resize = "--resize"


RUN_TO_RUN = (Mode.start, Mode.upcycle, Mode.mix, Mode.resize)
# Which modes take an option. Those that are not here (--dry-run, --json) all take.
MODES_OF = {
    "verify": (Mode.huggingface,),
    "dtype": (Mode.huggingface,),
    "max_shard_bytes": (Mode.huggingface,),
    "recipe": tuple(mode for mode in Mode if mode is not Mode.resize),
    "overrides": tuple(Mode),
    "seed": (Mode.upcycle, Mode.mix, Mode.resize),
    "noise_std": (Mode.upcycle, Mode.resize),
    "drop_ratio": (Mode.upcycle,),
    "router_std": (Mode.upcycle,),
    "scale_outputs": (Mode.upcycle,),
    "carry_optimizer": (Mode.start, Mode.upcycle),
    "router_init": (Mode.mix,),
    "experts": (Mode.resize,),
    "by": (Mode.resize,),
    "drop_experts": (Mode.resize,),
    "shards": (Mode.resize,),
    "merge_by": (Mode.resize,),
}
# The option of a field that is called otherwise.
OPTION_NAMES = {"overrides": "--set"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertArguments:
    """Everything that was typed; None where nothing was. The fields are the parameters of `convert_command`."""

    sources: list[Path]
    target: Path
    to: str
    """auto where nothing was typed."""
    verify: bool | None
    dtype: str | None
    max_shard_bytes: int | None
    dry_run: bool
    as_json: bool
    recipe: str | None
    overrides: list[str] | None
    seed: int | None
    noise_std: float | None
    upcycle: str | None
    drop_ratio: float | None
    router_std: float | None
    scale_outputs: bool | None
    carry_optimizer: bool | None
    mix: bool | None
    router_init: str | None
    resize: str | None
    experts: int | None
    by: str | None
    drop_experts: str | None
    shards: int | None
    merge_by: str | None

    @property
    def source(self) -> Path:
        """The one source, of a mode that takes no more."""
        [source] = self.sources
        return source

    @property
    def changes_recipe(self) -> bool:
        """Whether a recipe was given, or anything to lay over one."""
        return self.recipe is not None or self.overrides is not None

    def asked_mode(self) -> Mode | None:
        """The mode that an option of its own asks for; None where what the source is decides.

        Raises:
            BadParameter: there are two.
        """
        asked = [mode for mode in (Mode.upcycle, Mode.mix, Mode.resize) if getattr(self, mode.name)]
        if len(asked) > 1:
            raise typer.BadParameter(f"has no place with {asked[0]}: a conversion is one of the two", param_hint=asked[1])
        return asked[0] if asked else None

    def check_mode(self, mode: Mode) -> None:
        """Raises BadParameter where an option, or the number of sources, is not for this mode."""
        if len(self.sources) > 1 and mode is not Mode.mix:
            raise typer.BadParameter(f"{len(self.sources)} were given, and one can be converted", param_hint="SOURCE")
        if mode in RUN_TO_RUN and self.to not in ("auto", "moecli"):
            raise typer.BadParameter(f"has no place with {mode}, which makes a run folder", param_hint="--to")
        for field, modes in MODES_OF.items():
            if getattr(self, field) is not None and mode not in modes:
                is_for = " or ".join(modes)
                what = f"has no place with {mode}: it is for {is_for}" if mode in RUN_TO_RUN else f"is for {is_for}, which was not given"
                if mode is Mode.huggingface and Mode.start in modes and self.to == "moecli":
                    what = f"is for a run as the source, and {self.source} is none"
                raise typer.BadParameter(what, param_hint=OPTION_NAMES.get(field, f"--{field.replace('_', '-')}"))


def next_line(run: Path) -> str:
    """What to do with a run that has not taken a step."""
    recipe, folder = (shlex.quote(str(path)) for path in (run / "recipe.yaml", run))
    return f"next: moecli train {recipe} --out {folder} --resume"


def finite_above_zero(value: float | None) -> float | None:
    """Checks an option that is a spread or a factor."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a finite number above 0.")
    return value


RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="The recipe of the new run. Default: that of the source, with --set laid over it.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the new run's recipe, e.g. --set model.ffn.kind=sparse. Can be repeated.",
        rich_help_panel=PANEL,
    ),
]
NoiseOption = Annotated[
    float | None,
    typer.Option(
        callback=finite_above_zero,
        help="Add noise to the experts, in standard deviations of their weights. Default: none; with --resize add 0.01.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
CarryOption = Annotated[
    bool | None,
    typer.Option(
        "--carry-optimizer",
        help="With --to moecli or --upcycle: begin with the optimizer's moments of the source's training, for what has a counterpart "
        "there. Default: begin without.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, max=2**31 - 1, help="Of everything drawn. Default: 0.", rich_help_panel=PANEL, show_default=False)
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="List what would be written and what can't be represented; write nothing.")]
