"""A comparison with dense twins as Markdown that can be pasted into an issue or a README.

Knows a comparison as plain data. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from moecli.reports.dense_comparison import (
    DASH,
    UNKNOWN,
    amount,
    factor_with_interval,
    final,
    heading,
    machine,
    num_bytes,
    setting,
    with_interval,
)
from moecli.reports.markdown import bullets, escaped, table
from moecli.reports.picture import Content

LEGEND = (
    "{unit}: pure cross-entropy on the validation text at the end of training, without balance losses; lower is better. "
    "± and intervals: 95 %, over seeds, of each figure alone. Difference: {base} − the arm, paired by seed; below 0 {base} is better. "
    "Tokens and time to equal loss: how many times as many the arm took as {base} to the worse of their two final losses; above 1 {base} "
    "is faster; geometric means over seeds. There the learning rate of the better one had not fallen yet, so the factor is nearer to 1 "
    "than if its schedule had ended there. Parameters: all experts, and those that a token runs. Seconds and tokens/s are of this machine "
    "({machine})."
)


def as_markdown(content: Content) -> str:
    """Sentences, notes, what came out, what it costs, what is matched; ends with a newline."""
    compared = {comparison["arm"]: comparison for comparison in content["comparisons"]}
    parts = [
        f"## {escaped(heading(content))}",
        escaped(f"{setting(content)}."),
        bullets([comparison["sentence"] for comparison in content["comparisons"]]),
        *(["**Keep in mind**", bullets(content["notes"])] if content["notes"] else []),
        table(*_outcome(content, compared)),
        "What the arms cost besides:",
        table(*_cost(content)),
        *(["What is matched, and how far off it is:", table(*_matching(content))] if content["matches"] else []),
        escaped(LEGEND.format(unit=content["unit"], base=content["base"], machine=machine(content))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _outcome(content: Content, compared: dict[str, Content]) -> tuple[list[str], list[list[str]]]:
    header = [
        "arm", "parameters", "active", content["unit"], f"{content['base']} − arm", "p", "tokens to equal loss", "time to equal loss",
        "training tokens/s", "generating tokens/s",
    ]  # fmt: skip
    rows = []
    for arm in content["arms"]:
        comparison = compared.get(arm["name"], {})
        difference = comparison.get("difference") or UNKNOWN
        counts, speeds = (
            [amount(arm[key]) for key in keys]
            for keys in (("params_total", "params_active"), ("train_tokens_per_s", "decode_tokens_per_s"))
        )
        ends = [with_interval(final(content, arm), 4), with_interval(difference, 4, sign="+"), _number(difference.get("p_value"), ".2g")]
        speedups = [factor_with_interval(comparison.get(key) or UNKNOWN) for key in ("tokens_to_equal_loss", "time_to_equal_loss")]
        rows.append([arm["name"], *counts, *ends, *speedups, *speeds])
    return header, rows


def _cost(content: Content) -> tuple[list[str], list[list[str]]]:
    batch = f"{content['decode']['batch_size']} texts" if content["decode"] else "a batch"
    header = ["arm", "FLOPs/token", "trained on tokens", "seconds", "weights", "most memory in training", f"generating {batch}, tokens/s"]
    rows = []
    for arm in content["arms"]:
        counts = [amount(arm[key]) for key in ("flops_per_token", "tokens")]
        memory = [num_bytes(arm[key]) for key in ("weight_bytes", "peak_memory_bytes")]
        seconds = _number(arm["train_seconds"]["mean"], ",.4g")
        rows.append([arm["name"], *counts, seconds, *memory, amount(arm["decode_tokens_per_s_batched"])])
    return header, rows


def _matching(content: Content) -> tuple[list[str], list[list[str]]]:
    rows = [
        [match["arm"], match["quantity"], *(_count(match[key]) for key in ("target", "got")), _percent(match["mismatch"])]
        for match in content["matches"]
    ]
    return ["arm", "equal", content["base"], "the arm", "mismatch"], rows


def _number(value: float | None, spec: str) -> str:
    return DASH if value is None else f"{value:{spec}}"


def _count(value: float | None) -> str:
    """Whole from a thousand on."""
    return _number(value, ",.0f" if value is not None and value >= 1000 else ",.4g")


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:+.3f} %"
