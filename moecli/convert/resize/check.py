"""Whether a model can be resized as asked, and why the result would not compute what it did.

Knows both configs and what was asked. Must not change any weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moecli.convert.features import moe_layers
from moecli.convert.resize.options import ResizeOptions
from moecli.convert.resize.shape import MoEConfig, num_experts_after, num_groups
from moecli.convert.start import changed_fields, start_problems
from moecli.errors import FieldProblem
from moecli.model.config import GPTConfig
from moecli.moe.layers import DenseMoEConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import SigmoidTopKConfig

# What a config of feed-forward layers calls the parts that regating copies.
KEPT_BY_REGATE = ("num_experts", "d_expert")


def resize_problems(config: GPTConfig, options: ResizeOptions) -> list[FieldProblem]:
    """Everything that keeps a model of this config from being resized; the fields are options, or those of `model` in its recipe."""
    ffn = config.ffn
    if not isinstance(ffn, MoEConfig):
        return [FieldProblem("model.ffn.kind", f"{ffn.kind} has no experts", allowed="a run of an MoE; to make one, --upcycle")]
    problems = [*_kind_problems(ffn, options)]
    if options.drop_experts is not None:
        return [*problems, *_list_problems(config, ffn, options.drop_experts)]
    return [*problems, *_number_problems(ffn, options)]


def _kind_problems(ffn: MoEConfig, options: ResizeOptions) -> Iterator[FieldProblem]:
    operation = options.operation
    if isinstance(ffn, SoftMoEConfig) and operation not in ("prune", "regate"):
        what = f"{operation} has no meaning for experts that work on mixtures of tokens"
        yield FieldProblem("model.ffn.kind", what, allowed="prune or regate of a soft run, or a sparse or dense one")
    if isinstance(ffn, DenseMoEConfig) and operation in ("add", "split"):
        what = f"every token has every expert already, and {operation} would cost each token more"
        yield FieldProblem("model.ffn.kind", what, allowed="prune, merge, dense or regate of a dense MoE, or a sparse one")
    if isinstance(ffn, SparseMoEConfig) and not ffn.router.learns and operation not in ("dense", "regate"):
        what = f"{ffn.router.kind} has no row for each expert: with another number of experts it sends every token elsewhere"
        yield FieldProblem("model.ffn.router.kind", what, allowed="dense or regate of this run, or one with a router that learns")


def _number_problems(ffn: MoEConfig, options: ResizeOptions) -> Iterator[FieldProblem]:
    there, wanted, groups = ffn.num_experts, options.num_experts, num_groups(ffn)
    if options.shards is not None and (options.shards < 2 or (ffn.d_expert or 0) % options.shards):
        allowed = ", ".join(str(number) for number in range(2, (ffn.d_expert or 0) + 1) if (ffn.d_expert or 0) % number == 0)
        what = f"{options.shards} does not cut the {ffn.d_expert} hidden units of an expert into equal parts, two or more"
        yield FieldProblem("--shards", what, allowed=allowed or "nothing: experts of one hidden unit can't be split")
    if wanted is None:
        return
    if options.operation == "add" and wanted <= there:
        yield FieldProblem("--experts", f"{wanted} is not more than there are", allowed=f"{there + groups} or more")
    elif options.operation == "merge" and wanted >= there:
        yield FieldProblem("--experts", f"{wanted} leaves nothing to merge of {there}", allowed=f"1 to {there - 1}")
    elif options.operation == "prune" and wanted > there:
        yield FieldProblem("--experts", f"{wanted} is more than there are", allowed=f"1 to {there}")
    else:
        yield from _group_problems(ffn, "--experts", wanted)


def _group_problems(ffn: MoEConfig, option: str, wanted: int) -> Iterator[FieldProblem]:
    """Whether so many experts can be divided into the groups of a router."""
    groups = num_groups(ffn)
    if groups == 1:
        return
    assert isinstance(ffn, SparseMoEConfig) and isinstance(ffn.router, SigmoidTopKConfig)
    least = 2 if ffn.router.group_score == "top2_sum" else 1
    if wanted % groups or wanted // groups < least:
        what = f"{wanted} experts are no {groups} groups of {least} or more"
        yield FieldProblem(option, what, allowed=f"a multiple of {groups}, {least * groups} or more")


def _list_problems(config: GPTConfig, ffn: MoEConfig, dropped: tuple[int, ...] | Mapping[int, tuple[int, ...]]) -> Iterator[FieldProblem]:
    layers = moe_layers(config)
    by_layer = dict.fromkeys(layers, dropped) if isinstance(dropped, tuple) else dropped
    allowed = f"every layer with experts: {', '.join(map(str, layers))}"
    foreign = [layer for layer in by_layer if layer not in layers]
    missing = [layer for layer in layers if layer not in by_layer]
    if foreign:
        yield FieldProblem("--drop-experts", f"layer {foreign[0]} has no experts", allowed=allowed)
    if missing:
        yield FieldProblem("--drop-experts", f"layer {missing[0]} is not named", allowed=allowed)
    numbers = {len(experts) for experts in by_layer.values()}
    if len(numbers) > 1:
        what = f"the layers would lose {' or '.join(map(str, sorted(numbers)))} experts"
        yield FieldProblem("--drop-experts", what, allowed="as many in every layer")
    for experts in dict.fromkeys(by_layer.values()):
        yield from _one_list_problems(ffn, experts)
    if not foreign and not missing and len(numbers) == 1 and _num_left(ffn, by_layer) > 0:
        yield from _uneven_groups(ffn, by_layer)


def _num_left(ffn: MoEConfig, by_layer: Mapping[int, tuple[int, ...]]) -> int:
    return num_experts_after(ffn, ResizeOptions("prune", drop_experts=by_layer))


def _one_list_problems(ffn: MoEConfig, experts: tuple[int, ...]) -> Iterator[FieldProblem]:
    unknown = [expert for expert in experts if not 0 <= expert < ffn.num_experts]
    if unknown:
        yield FieldProblem("--drop-experts", f"there is no expert {unknown[0]}", allowed=f"0 to {ffn.num_experts - 1}")
    if len(set(experts)) < len(experts):
        yield FieldProblem("--drop-experts", f"{','.join(map(str, experts))} names an expert twice", allowed="each once")
    if len(set(experts)) >= ffn.num_experts:
        yield FieldProblem("--drop-experts", "leaves no expert", allowed=f"up to {ffn.num_experts - 1} experts; for none, dense")


def _uneven_groups(ffn: MoEConfig, by_layer: Mapping[int, tuple[int, ...]]) -> Iterator[FieldProblem]:
    groups = num_groups(ffn)
    size = ffn.num_experts // groups
    for experts in dict.fromkeys(by_layer.values()):
        losses = [sum(expert // size == group for expert in experts) for group in range(groups)]
        if len(set(losses)) > 1:
            what = f"the router's {groups} groups would lose {', '.join(map(str, losses))} experts"
            yield FieldProblem("--drop-experts", what, allowed="as many of each group")
            return
    yield from _group_problems(ffn, "--drop-experts", _num_left(ffn, by_layer))


def recipe_problems(source: GPTConfig, expected: GPTConfig, found: GPTConfig, options: ResizeOptions) -> list[FieldProblem]:
    """What a user's settings would change beside the operation's own; the fields are those of `model`."""
    if options.operation != "regate":
        of_operation = start_problems(changed_fields(expected, found))
        return [FieldProblem(problem.field, "is not for --set to change here", allowed=problem.allowed) for problem in of_operation]
    if not isinstance(found.ffn, MoEConfig):
        allowed = "a kind with experts: sparse, dense or soft; for an mlp, --resize dense"
        return [FieldProblem("ffn.kind", f"{found.ffn.kind} has no experts to keep", allowed=allowed)]
    assert isinstance(source.ffn, MoEConfig)
    problems = start_problems(changed_fields(source, found.model_copy(update={"ffn": source.ffn})))
    for name in KEPT_BY_REGATE:
        ours, theirs = getattr(found.ffn, name), getattr(source.ffn, name)
        if ours != theirs:
            problems.append(FieldProblem(f"ffn.{name}", f"{ours} is not that of the source", allowed=f"{theirs}"))
    if _shared_experts(source.ffn) != _shared_experts(found.ffn):
        number, width = _shared_experts(source.ffn)
        what = "the shared experts are not those of the source"
        allowed = f"kind sparse with num_shared_experts {number} and d_shared_expert {width}" if number else "0"
        problems.append(FieldProblem("ffn.num_shared_experts", what, allowed=allowed))
    return problems


def _shared_experts(ffn: MoEConfig) -> tuple[int, int]:
    """How many, and how wide."""
    if not isinstance(ffn, SparseMoEConfig) or not ffn.num_shared_experts:
        return 0, 0
    assert ffn.d_shared_expert is not None
    return ffn.num_shared_experts, ffn.d_shared_expert
