"""`moecli convert` from or to Hugging Face: its options, and how to show such a conversion.

Knows the workflow of both directions. Must not know how a class names its tensors.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from moecli.cli import console
from moecli.cli.convert_modes import ConvertArguments, next_line

if TYPE_CHECKING:
    from moecli.workflows.convert import Conversion, ConversionPlan


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


ToOption = Annotated[
    FormatName,
    typer.Option(
        help="A class of Hugging Face, or moecli for a run folder. auto: of a run, the first class that can represent it; "
        "of a Hugging Face folder, moecli."
    ),
]
VerifyOption = Annotated[
    bool | None,
    typer.Option(
        "--verify/--no-verify",
        help="Compare logits and chosen experts with those that transformers computes. Default: where transformers is installed.",
        show_default=False,
    ),
]
DtypeOption = Annotated[
    DtypeName | None, typer.Option(help="Of the weights that are written for Hugging Face. Default: float32.", show_default=False)
]
ShardOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For Hugging Face: most bytes of the weights in one file; one tensor may be larger. Default: 5,000,000,000.",
        show_default=False,
    ),
]


def run_huggingface(arguments: ConvertArguments) -> None:
    """Exports or imports, and shows what was written and proved."""
    from moecli.cli.stage_progress import StageProgress
    from moecli.workflows.convert import ConvertRequest, convert, plan_conversion

    request = ConvertRequest(
        source=arguments.source,
        target=arguments.target,
        to=str(arguments.to),
        verify=arguments.verify,
        dtype=None if arguments.dtype is None else str(arguments.dtype),
        max_shard_bytes=arguments.max_shard_bytes,
        recipe=arguments.recipe,
        overrides=arguments.overrides or (),
    )
    if arguments.dry_run:
        plan = plan_conversion(request)
        if arguments.as_json:
            console.print_json(plan.to_json())
        else:
            _print_plan(plan)
        return
    with StageProgress(console.stderr()) as progress:
        conversion = convert(request, progress.show)
    if arguments.as_json:
        console.print_json(conversion.to_json())
    else:
        _print_conversion(conversion)


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
    if conversion.can_be_trained:
        lines.append(next_line(conversion.target))
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
