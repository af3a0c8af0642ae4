"""The comparison as plain data: what its JSON holds and its reports draw.

Knows the arms, their finished runs and what was measured. Must not train, measure or draw.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from moecli.analysis.seeds import paired_p_value, seed_mean
from moecli.data.corpora.base import Corpus
from moecli.data.corpora.files import FilesCorpus
from moecli.evaluation.decode_speed import DecodeRate
from moecli.recipe.leak_notes import SEES_FUTURE, leak_notes, leaks_json
from moecli.workflows.compare_equal_loss import equal_loss_json
from moecli.workflows.compare_measures import BATCH_SIZE, NEW_TOKENS, PROMPT_TOKENS
from moecli.workflows.compare_notes import Measure, time_match_notes
from moecli.workflows.compare_plan import ComparisonPlan
from moecli.workflows.compare_result_notes import result_notes
from moecli.workflows.compare_results import ArmResult
from moecli.workflows.compare_runs import FinishedRun
from moecli.workflows.compare_verdict import Contest

# Of a corpus of files; the recipes have them all.
MOST_PATHS = 3


def comparison_content(plan: ComparisonPlan, results: Sequence[ArmResult]) -> dict[str, Any]:
    """Everything that reports and JSON tell. The results are in the order of the plan's arms."""
    base = results[0]
    comparisons = [_comparison(base, result, plan) for result in results[1:]]
    recipe = plan.base.recipe
    generates = base.decode_speed is not None
    matches = [_with_seconds(match, results) for match in plan.matches_json()]
    return {
        "name": recipe.name,
        "base": plan.base.name,
        **leaks_json(recipe),
        "corpus": corpus_in_short(recipe.data.corpus),
        "split": "validation",
        "seq_len": recipe.data.seq_len,
        **{key: base.runs[0].machine[key] for key in ("device", "threads")},
        "seeds": list(plan.seeds),
        "measure": plan.measure,
        "unit": plan.unit,
        "notes": plan.notes + time_match_notes(matches, plan.base.name) + result_notes(results, plan.measure, plan.seeds),
        "matches": matches,
        "arms": [_arm(result, plan.measure) for result in results],
        "decode": {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "batch_size": BATCH_SIZE} if generates else None,
        "comparisons": comparisons,
        "tokens_to_equal_loss_speedup": comparisons[0]["tokens_to_equal_loss"]["mean"],
        "time_to_equal_loss_speedup": comparisons[0]["time_to_equal_loss"]["mean"],
    }


def corpus_in_short(corpus: Corpus) -> str:
    """The kind of the corpus, and of files the first paths."""
    if not isinstance(corpus, FilesCorpus):
        return corpus.kind
    more = len(corpus.paths) - MOST_PATHS
    return f"{corpus.kind} {', '.join(corpus.paths[:MOST_PATHS])}{f' and {more} more' if more > 0 else ''}"


def _with_seconds(match: dict[str, Any], results: Sequence[ArmResult]) -> dict[str, Any]:
    if match["match"] != "time":
        return match
    twin = next(result for result in results if result.arm.name == match["arm"])
    target, got = (statistics.fmean(run.seconds for run in result.runs) for result in (results[0], twin))
    return match | {"target": target, "got": got, "mismatch": got / target - 1}


def _arm(result: ArmResult, measure: Measure) -> dict[str, Any]:
    arm, runs = result.arm, result.runs
    cost, speed = arm.plan.cost, result.decode_speed
    seconds = seed_mean([run.seconds for run in runs])
    bits_per_byte = [run.bits_per_byte for run in runs if run.bits_per_byte is not None]
    return {
        "name": arm.name,
        "match": arm.match,
        "kind": arm.recipe.model.ffn.kind,
        "d_ff": arm.twin.d_ff if arm.twin else None,
        "source": arm.source,
        "params_total": cost.params_total,
        "params_active": cost.params_active,
        "flops_per_token": cost.train_flops_per_token,
        "steps": arm.steps,
        "tokens": arm.tokens,
        "val_loss": seed_mean([run.val_loss for run in runs]).to_json(),
        "bits_per_byte": seed_mean(bits_per_byte).to_json() if bits_per_byte else None,
        "train_seconds": seconds.to_json(),
        "train_tokens_per_s": arm.recipe.training.steps * arm.tokens_per_step / seconds.mean,
        **_decode_rate("decode_tokens_per_s", speed.single if speed else None),
        **_decode_rate("decode_tokens_per_s_batched", speed.batched if speed else None),
        "weight_bytes": arm.plan.memory.weights,
        "peak_memory_bytes": result.peak_memory_bytes,
        "load": _load(runs),
        "notes": leak_notes(arm.recipe),
        "curve": _curve(result, measure),
        "run_dirs": [str(run.run.path) for run in runs],
    }


def _decode_rate(key: str, rate: DecodeRate | None) -> dict[str, Any]:
    """The median round, and the slowest and the fastest."""
    return {key: rate.median if rate else None, f"{key}_range": [rate.low, rate.high] if rate else None}


def _load(runs: Sequence[FinishedRun]) -> dict[str, float] | None:
    """Means over seeds."""
    loads = [run.load for run in runs if run.load is not None]
    return {key: statistics.fmean(load[key] for load in loads) for key in loads[0]} if loads else None


def _curve(result: ArmResult, measure: Measure) -> dict[str, Any]:
    """Every run of an arm is validated after the same steps."""
    curves = [result.curve(run, measure, over_seconds=True) for run in result.runs]
    steps = result.runs[0].validated_steps
    tokens = [step * result.arm.tokens_per_step for step in steps]
    return {
        "steps": list(steps),
        "tokens": tokens,
        "flops": [count * result.arm.plan.cost.train_flops_per_token for count in tokens],
        "seconds": [statistics.fmean(point) for point in zip(*(curve.cost for curve in curves), strict=True)],
        "value": [statistics.fmean(point) for point in zip(*(curve.value for curve in curves), strict=True)],
        "per_seed": [list(curve.value) for curve in curves],
    }


def _comparison(base: ArmResult, other: ArmResult, plan: ComparisonPlan) -> dict[str, Any]:
    values = zip(base.final_values(plan.measure), other.final_values(plan.measure), strict=True)
    differences = [of_base - of_other for of_base, of_other in values]
    p_value = paired_p_value(differences)
    leaking = tuple(result.arm.name for result in (base, other) if SEES_FUTURE in leak_notes(result.arm.recipe))
    contest = Contest(base.arm.name, other.arm.name, plan.unit, seed_mean(differences), p_value, leaking)
    return {
        "arm": other.arm.name,
        "difference": contest.difference.to_json() | {"p_value": p_value},
        **equal_loss_json(base, other, plan.measure),
        "verdict": contest.verdict,
        "sentence": contest.sentence,
    }
