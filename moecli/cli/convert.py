"""`moecli convert`.

Knows which mode a command line asks for. Must not know what a mode does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moecli.cli.convert_modes import (
    CarryOption,
    ConvertArguments,
    DryRunOption,
    Mode,
    NoiseOption,
    OverridesOption,
    RecipeOption,
    SeedOption,
)
from moecli.cli.huggingface import DtypeOption, FormatName, ShardOption, ToOption, VerifyOption, run_huggingface
from moecli.cli.mix import MixOption, RouterInitOption, run_mix
from moecli.cli.options import JsonOption
from moecli.cli.resize import (
    ByOption,
    DropExpertsOption,
    ExpertsOption,
    MergeByOption,
    ResizeOption,
    ShardsOption,
    run_resize,
)
from moecli.cli.start import is_start, run_start
from moecli.cli.upcycle import DropRatioOption, RouterStdOption, ScaleOption, UpcycleOption, run_upcycle

EPILOG = (
    "Examples: `moecli convert outputs/quickstart/... hf/quickstart`, `moecli convert RUN DST --to qwen2_moe --dtype bfloat16`, "
    "`moecli convert hf/quickstart runs/imported --to moecli`, `moecli convert RUN DST --dry-run`, "
    "`moecli convert RUN DST --to moecli --set training.learning_rate=1e-4`, "
    "`moecli convert DENSE DST --upcycle copies --set model.ffn.kind=sparse`, "
    "`moecli convert BRANCH BRANCH DST --mix --set model.ffn.kind=sparse --set model.ffn.num_experts=2`, "
    "`moecli convert MOE DST --resize prune --experts 6`."
)
RUN_MODE = {
    Mode.huggingface: run_huggingface,
    Mode.start: run_start,
    Mode.upcycle: run_upcycle,
    Mode.mix: run_mix,
    Mode.resize: run_resize,
}


def convert_command(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="A run folder, a checkpoint folder in one, or a Hugging Face folder.", show_default=False),
    ],
    target: Annotated[Path, typer.Argument(help="The folder to make; it must not be there yet, or be empty.", show_default=False)],
    to: ToOption = FormatName.auto,
    verify: VerifyOption = None,
    dtype: DtypeOption = None,
    max_shard_bytes: ShardOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    recipe: RecipeOption = None,
    overrides: OverridesOption = None,
    seed: SeedOption = None,
    noise_std: NoiseOption = None,
    upcycle: UpcycleOption = None,
    drop_ratio: DropRatioOption = None,
    router_std: RouterStdOption = None,
    scale_outputs: ScaleOption = None,
    carry_optimizer: CarryOption = None,
    mix: MixOption = None,
    router_init: RouterInitOption = None,
    resize: ResizeOption = None,
    experts: ExpertsOption = None,
    by: ByOption = None,
    drop_experts: DropExpertsOption = None,
    shards: ShardsOption = None,
    merge_by: MergeByOption = None,
) -> None:
    """Turn a run into a Hugging Face checkpoint, one of those into a run, or a run into another; prove what both compute."""
    # Every parameter is a field: nothing else is in locals() yet.
    arguments = ConvertArguments(**locals())
    mode = arguments.asked_mode() or (Mode.start if is_start(arguments) else Mode.huggingface)
    arguments.check_mode(mode)
    RUN_MODE[mode](arguments)
