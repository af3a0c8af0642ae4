"""A comparison with dense twins in made-up numbers, for tests of what is drawn: of any number of arms and seeds, won or lost."""

from __future__ import annotations

from typing import Any

import numpy as np

STEPS = [15 * number for number in range(1, 21)]
TOKENS_PER_STEP = 2048
# Name, match, width, active and total parameters, how far the final loss lies above the base's, tokens/s while training and generating.
TWINS = (
    ("dense-active", "active", 259, 395_840, 395_840, 0.05, 6100.0, 410.0),
    ("dense-total", "total", 1795, 985_600, 985_600, -0.02, 3300.0, 300.0),
    ("dense-time", "time", 259, 395_840, 395_840, 0.015, 6100.0, 410.0),
)


def dense_content(num_seeds: int = 3, num_given: int = 0, *, loses: bool = False, seed: int = 0) -> dict[str, Any]:
    """All keys of a comparison: the base, three twins, and so many given recipes. `loses`: every difference has the other sign."""
    rng = np.random.default_rng(seed)
    seeds = list(range(num_seeds))
    sign = -1 if loses else 1
    base = _arm(rng, ("quickstart", None, None, 395_840, 985_664, 0.0, 4000.0, 350.0), num_seeds) | {
        "kind": "sparse", "source": "recipes/quickstart.yaml",
        "load": {"cv_load": 0.213, "max_violation": 0.62, "dead_experts": 0.0, "dropped_fraction": 0.0125},
    }  # fmt: skip
    twins = [_arm(rng, (*twin[:5], sign * twin[5], *twin[6:]), num_seeds) for twin in TWINS]
    given = [
        _arm(rng, (f"switch-{number}", None, None, 350_000, 985_664, sign * 0.01 * number, 4100.0, 380.0), num_seeds)
        | {"kind": "sparse", "source": f"recipes/switch-{number}.yaml"}
        for number in range(1, num_given + 1)
    ]
    arms = [base, *twins, *given]
    comparisons = [_compared(base, arm) for arm in arms[1:]]
    return {
        "name": "quickstart", "base": "quickstart", "objective": "causal-lm", "leaks_future": False, "mixes_rows": False,
        "corpus": "stdlib", "split": "validation", "seq_len": 128, "device": "cpu", "threads": 2, "seeds": seeds,
        "measure": "loss", "unit": "nats/token", "notes": ["dense-time is trained on another number of tokens: 937,984 instead of 614,400"],
        "matches": [
            {"match": "active", "arm": "dense-active", "quantity": "active parameters", "target": 395_840, "got": 396_104,
             "mismatch": 0.000667},
            {"match": "flops", "arm": "dense-active", "quantity": "training FLOPs per token", "target": 2_371_584, "got": 2_373_168,
             "mismatch": 0.000668},
            {"match": "total", "arm": "dense-total", "quantity": "total parameters", "target": 985_664, "got": 985_600,
             "mismatch": -0.000065},
            {"match": "time", "arm": "dense-time", "quantity": "training seconds", "target": 153.6, "got": 150.2, "mismatch": -0.0221},
        ],
        "arms": arms,
        "decode": {"prompt_tokens": 16, "new_tokens": 64, "batch_size": 8},
        "comparisons": comparisons,
        "tokens_to_equal_loss_speedup": comparisons[0]["tokens_to_equal_loss"]["mean"],
        "time_to_equal_loss_speedup": comparisons[0]["time_to_equal_loss"]["mean"],
    }  # fmt: skip


def spread_over_seeds(values: list[float]) -> dict[str, Any]:
    """Mean and an interval of two standard deviations: enough to draw."""
    mean, half = float(np.mean(values)), 2 * float(np.std(values))
    return {"mean": mean, "ci95": [mean - half, mean + half] if len(values) > 1 else None, "per_seed": values}


def unknown_figures(content: dict[str, Any]) -> dict[str, Any]:
    """The same comparison with everything null that may be, as of a masked-lm of one seed on a machine that tells nothing."""
    arms = [
        arm
        | {"bits_per_byte": None, "load": None}
        | {f"decode_tokens_per_s{end}": None for end in ("", "_range", "_batched", "_batched_range")}
        for arm in content["arms"]
    ]
    nothing = {"mean": None, "ci95": None, "per_seed": [None] * len(content["seeds"])}
    spent = {"base": nothing["per_seed"], "arm": nothing["per_seed"], "base_mean": None, "arm_mean": None}
    comparisons = [
        comparison
        | {"tokens_to_equal_loss": nothing, "time_to_equal_loss": nothing, "tokens_at_equal_loss": spent, "seconds_at_equal_loss": spent}
        | {"difference": comparison["difference"] | {"p_value": None}}
        for comparison in content["comparisons"]
    ]
    matches = [match | {"target": None, "got": None, "mismatch": None} for match in content["matches"]]
    speedups = {"tokens_to_equal_loss_speedup": None, "time_to_equal_loss_speedup": None}
    return content | speedups | {"arms": arms, "comparisons": comparisons, "matches": matches, "decode": None, "objective": "masked-lm",
                                 "unit": "nats/masked token"}  # fmt: skip


def moved(content: dict[str, Any], place: int, by: float) -> dict[str, Any]:
    """The same comparison with the arm at this place, not the base, so much worse all along."""
    arm, comparison = content["arms"][place], content["comparisons"][place - 1]
    curve = {"value": _plus(by, arm["curve"]["value"]), "per_seed": [_plus(by, line) for line in arm["curve"]["per_seed"]]}
    arm |= {"val_loss": _figure_plus(by, arm["val_loss"]), "curve": arm["curve"] | curve}
    comparison["difference"] |= _figure_plus(-by, comparison["difference"])
    return content


def _plus(by: float, values: list[float]) -> list[float]:
    return [value + by for value in values]


def _figure_plus(by: float, figure: dict[str, Any]) -> dict[str, Any]:
    return {"mean": figure["mean"] + by, "ci95": figure["ci95"] and _plus(by, figure["ci95"]), "per_seed": _plus(by, figure["per_seed"])}


def _arm(rng: np.random.Generator, figures: tuple, num_seeds: int) -> dict[str, Any]:
    name, match, d_ff, active, total, above, rate, decode = figures
    scale = 1.5 if match == "time" else 1.0
    steps = [round(scale * step) for step in STEPS]
    tokens = [TOKENS_PER_STEP * step for step in steps]
    # Falls from about 6.7 to about 3.9.
    smooth = 3.85 + above + 3.1 * np.exp(-np.array(STEPS) / 90)
    per_seed = [(smooth + offset + rng.normal(0, 0.004, len(STEPS))).tolist() for offset in rng.normal(0, 0.012, num_seeds)]
    finals = [curve[-1] for curve in per_seed]
    seconds = [count / rate for count in tokens]
    return {
        "name": name, "match": match, "kind": "mlp", "d_ff": d_ff, "source": None,
        "params_total": total, "params_active": active, "flops_per_token": 6 * active, "steps": steps[-1], "tokens": tokens[-1],
        "val_loss": spread_over_seeds(finals), "bits_per_byte": spread_over_seeds([0.55 * value for value in finals]),
        "train_seconds": spread_over_seeds([seconds[-1] * (1 + 0.01 * place) for place in range(num_seeds)]),
        "train_tokens_per_s": rate, "decode_tokens_per_s": decode, "decode_tokens_per_s_batched": 6.5 * decode,
        "decode_tokens_per_s_range": [0.9 * decode, 1.2 * decode], "decode_tokens_per_s_batched_range": [6.1 * decode, 6.6 * decode],
        "weight_bytes": 4 * total, "peak_memory_bytes": 16 * total + 150_000_000, "load": None, "notes": [],
        "curve": {
            "steps": steps, "tokens": tokens, "flops": [6 * active * count for count in tokens], "seconds": seconds,
            "value": np.mean(per_seed, axis=0).tolist(), "per_seed": per_seed,
        },
        "run_dirs": [f"outputs/quickstart/compare-dense/runs/{name}/seed-{place}" for place in range(num_seeds)],
    }  # fmt: skip


def _spent(base: list[float], arm: list[float]) -> dict[str, Any]:
    return {"base": base, "arm": arm, "base_mean": float(np.mean(base)), "arm_mean": float(np.mean(arm))}


def _compared(base: dict[str, Any], arm: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(base["val_loss"]["per_seed"], arm["val_loss"]["per_seed"], strict=True)
    difference = spread_over_seeds([one - other for one, other in pairs])
    low, high = difference["ci95"] or (-1.0, 1.0)
    verdict = "lower" if high < 0 else "higher" if low > 0 else "undecided"
    where = "below" if difference["mean"] < 0 else "above"
    speedup = 1 - 6 * difference["mean"]
    factors = [speedup * (1 + 0.02 * place) for place in range(len(difference["per_seed"]))]
    return {
        "arm": arm["name"],
        "difference": difference | {"p_value": 0.0045 if len(difference["per_seed"]) > 1 else None},
        "tokens_to_equal_loss": spread_over_seeds(factors),
        "time_to_equal_loss": spread_over_seeds([0.65 * factor for factor in factors]),
        "tokens_at_equal_loss": _spent([500_000.0 for _ in factors], [500_000 * factor for factor in factors]),
        "seconds_at_equal_loss": _spent([125.0 for _ in factors], [125 * 0.65 * factor for factor in factors]),
        "verdict": verdict,
        "sentence": f"quickstart ends {abs(difference['mean']):.4f} nats/token {where} {arm['name']} ({len(difference['per_seed'])} seeds)",
    }
