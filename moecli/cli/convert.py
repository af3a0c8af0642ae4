"""`moecli convert`.

Knows its options and how to show a conversion. Must not know how one is made.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moecli.cli import console
from moecli.cli.options import JsonOption
from moecli.cli.upcycle import (
    DropRatioOption,
    NoiseOption,
    RecipeOption,
    RouterStdOption,
    ScaleOption,
    SeedOption,
    UpcycleArguments,
    UpcycleOption,
    UpcycleSetOption,
    check_is_run_to_run,
    run_upcycle,
)

if TYPE_CHECKING:
    from moecli.workflows.convert import Conversion, ConversionPlan

EPILOG = (
    "Examples: `moecli convert outputs/quickstart/... hf/quickstart`, `moecli convert RUN DST --to qwen2_moe --dtype bfloat16`, "
    "`moecli convert hf/quickstart runs/imported --to moecli`, `moecli convert RUN DST --dry-run`, "
    "`moecli convert DENSE DST --upcycle copies --set model.ffn.kind=sparse`."
)


class FormatName(StrEnum):
    auto = "auto"
    llama = "llama"
    qwen3 = "qwen3"
    mixtral = "mixtral"
    olmoe = "olmoe"
    qwen2_moe = "qwen2_moe"
    qwen3_moe = "qwen3_moe"
    glm4_moe = "glm4_moe"
    moecli = "moecli"


class DtypeName(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def convert_command(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="A run folder, a checkpoint folder in one, or a Hugging Face folder.", show_default=False),
    ],
    target: Annotated[Path, typer.Argument(help="The folder to make; it must not be there yet, or be empty.", show_default=False)],
    to: Annotated[
        FormatName,
        typer.Option(
            help="A class of Hugging Face, or moecli for a run folder. auto: of a run, the first class that can represent it; "
            "of a Hugging Face folder, moecli."
        ),
    ] = FormatName.auto,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Compare logits and chosen experts with those that transformers computes. Default: where transformers is installed.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        DtypeName | None, typer.Option(help="Of the weights that are written for Hugging Face. Default: float32.", show_default=False)
    ] = None,
    max_shard_bytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For Hugging Face: most bytes of the weights in one file; one tensor may be larger. Default: 5,000,000,000.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be written and what can't be represented; write nothing.")
    ] = False,
    as_json: JsonOption = False,
    upcycle: UpcycleOption = None,
    recipe: RecipeOption = None,
    overrides: UpcycleSetOption = None,
    drop_ratio: DropRatioOption = None,
    noise_std: NoiseOption = None,
    router_std: RouterStdOption = None,
    scale_outputs: ScaleOption = None,
    seed: SeedOption = None,
) -> None:
    """Turn a run into a Hugging Face checkpoint, one of those into a run, or a dense run into an MoE; prove what both compute."""
    source = _only_one(sources)
    arguments = UpcycleArguments(recipe, overrides, drop_ratio, noise_std, router_std, scale_outputs, seed)
    if upcycle is not None:
        check_is_run_to_run(to.value, verify=verify, dtype=dtype)
        run_upcycle(source, target, upcycle, arguments, dry_run=dry_run, as_json=as_json)
        return
    arguments.check_unused()
    from moecli.cli.stage_progress import StageProgress
    from moecli.workflows.convert import ConvertRequest, convert, plan_conversion

    request = ConvertRequest(
        source=source,
        target=target,
        to=to.value,
        verify=verify,
        dtype=None if dtype is None else dtype.value,
        max_shard_bytes=max_shard_bytes,
    )
    if dry_run:
        plan = plan_conversion(request)
        if as_json:
            console.print_json(plan.to_json())
        else:
            _print_plan(plan)
        return
    with StageProgress(console.stderr()) as progress:
        conversion = convert(request, progress.show)
    if as_json:
        console.print_json(conversion.to_json())
    else:
        _print_conversion(conversion)


def _only_one(sources: list[Path]) -> Path:
    if len(sources) > 1:
        raise typer.BadParameter(f"{len(sources)} were given, and one can be converted", param_hint="SOURCE")
    return sources[0]


def _print_conversion(conversion: Conversion) -> None:
    out = console.stdout()
    lines = [
        f"written    {conversion.target} ({conversion.format}), {len(conversion.files)} files",
        f"parameters {conversion.params_total:,}, {conversion.params_active:,} active",
    ]
    verification = conversion.verification
    if verification is not None:
        lines.append(f"verified   logits differ by {verification.max_abs_logit_diff:.2g} at most, of {verification.largest_logit:.3g}")
        if verification.choices_compared:
            lines.append(f"           {verification.choices_compared:,} choices of experts are the same")
            lines.append(f"           {len(verification.visited):,} of {verification.num_experts:,} experts were chosen")
        if verification.rounding_diff is not None:
            lines.append(f"           against the rounded weights; rounding moved a logit by {verification.rounding_diff:.2g} at most")
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print_notices(out, conversion.notes)


def _print_plan(plan: ConversionPlan) -> None:
    out = console.stdout()
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.shape)) or "scalar"
        out.print(f"{tensor.file}  {tensor.name}  {shape}  {tensor.dtype}", markup=False, highlight=False, soft_wrap=True)
    total = f"{len(plan.tensors):,} tensors, {plan.num_bytes:,} bytes of weights; files: {', '.join(plan.files)}"
    out.print(f"{plan.target} ({plan.format}): {total}", markup=False, highlight=False, soft_wrap=True)
    for name, problems in plan.problems.items():
        out.print(f"{name} can't: {'; '.join(problems)}", markup=False, highlight=False, soft_wrap=True)
    console.print_notices(out, plan.notes)
