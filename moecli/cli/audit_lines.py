"""What the audit found, in words: measured, declared, whether the two agree, and what the gap between the two losses means.

Knows the result of the eval workflow. Must not measure.
"""

from __future__ import annotations

from moecli.evaluation.audit import Audit
from moecli.workflows.eval import EvalResult

# Nats per token. The rounding of bfloat16 alone makes some thousandths.
SMALL_GAP = 0.01


def audit_lines(result: EvalResult) -> list[str]:
    """Lines for a terminal; none without an audit."""
    audit = result.audit
    if audit is None:
        return []
    is_future_by_design = result.evaluation.is_masked
    future = _found(audit.leaks_future, audit.max_abs_diff_past, audit.past_choices_changed)
    rows = _found(audit.mixes_rows, audit.max_abs_diff_rows, audit.row_choices_changed)
    future_verdict = "by design: masked-lm predicts from both sides" if is_future_by_design else None
    return [
        f"sees future   {future}; {future_verdict or _verdict(audit.leaks_future, result.recipe.leaks_future)}",
        f"mixes rows    {rows}; {_verdict(audit.mixes_rows, result.recipe.mixes_rows)}",
        *_loss_lines(audit),
    ]


def _found(is_seen: bool | None, max_abs_diff: float | None, choices: int | None) -> str:
    if is_seen is None:
        return "not measured, the batch has one sequence"
    return f"{'yes' if is_seen else 'no'} (logits changed by up to {max_abs_diff:.1e}, {choices:,} expert choices changed)"


def _verdict(is_seen: bool | None, is_declared: bool) -> str:
    if is_seen is None:
        return "declared" if is_declared else "not declared"
    if is_seen == is_declared:
        return "as declared"
    if is_declared:
        return "declared all the same: it may show on other text or with other weights"
    return "NOT DECLARED! The model does what its recipe rules out: a bug in moecli, or a tie between experts. Please report it"


def _loss_lines(audit: Audit) -> list[str]:
    if audit.teacher_forced_loss is None or audit.stepwise_loss is None:
        return []
    gap = audit.stepwise_loss - audit.teacher_forced_loss
    lines = [
        f"step by step  {audit.stepwise_loss:.6f} nats/token as in generation, {audit.teacher_forced_loss:.6f} as evaluated: gap {gap:+.6f}"
    ]
    if abs(gap) < SMALL_GAP:
        return [*lines, "              over these tokens generating gets the reported loss"]
    meaning = "the reported loss can't be reached when generating" if gap > 0 else "generating does better than the reported loss says"
    cause = "the future, other sequences, or a capacity that is counted from the length of the text so far make the difference"
    return [*lines, f"              {meaning}: {cause}"]
