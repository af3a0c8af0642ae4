"""A route-stats report with made-up numbers, for tests of what is drawn: every part is there, of any size."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

NULL = {"mean": 0.01, "low": 0.005, "high": 0.02}


def report_content(num_layers: int = 3, num_experts: int = 8, *, top_k: int = 2, seed: int = 0) -> dict[str, Any]:
    """All keys of a report. Layer 0 routes nothing, so the layers are numbered from 1."""
    rng = np.random.default_rng(seed)
    numbers = range(1, num_layers + 1)
    layers = [_layer(rng, number, num_experts, top_k) for number in numbers]
    return {
        "checkpoint": "runs/first/checkpoints/step-600",
        "source": "moecli",
        "model_type": "gpt",
        "corpus": "stdlib",
        "split": "validation",
        "tokens": 75_123,
        "loss": 3.4631,
        "perplexity": 31.92,
        "notes": ["specialisation, structure and the text are of a sample of 75,123 tokens in 40 documents"],
        "layers": layers,
        "position_starts": [0, 32, 64, 96],
        "mean": {key: float(np.mean([layer[key] for layer in layers])) for key in SCALARS} | {"dead_experts": 1},
        "sample": {"tokens": 75_123, "documents": 40, "of_tokens": 75_123},
        "specialisation": [
            _specialisation(rng, "domain", ["code", "comment", "docstring", "prose"], numbers, num_experts, top_k),
            _specialisation(rng, "position", ["0", "1", "2-3", "4-7", "8-15"], numbers, num_experts, top_k),
        ],
        "vocabulary": [_vocabulary(number) for number in numbers],
        "coactivation": [_coactivation(rng, number, num_experts) for number in numbers] if top_k > 1 else [],
        "consistency": [
            {
                "layer": number, "pairs": 75_000, "first": 0.27, "first_chance": {"mean": 0.13, "low": 0.128, "high": 0.133},
                "first_or_second": 0.6, "first_or_second_chance": {"mean": 0.46, "low": 0.45, "high": 0.47},
            }
            for number in numbers
        ],
        "paths": _paths(rng, list(numbers), num_experts),
        "training": {
            "steps": [10, 20, 30], "load_cv": [0.9, 0.5, 0.3], "max_violation": [2.0, 1.0, 0.6], "dropped_fraction": [0.0, 0.0, 0.0],
            "dead_experts": [3, 1, 0],
        },
        "communication": {
            "steps": [10, 20, 30], "processes": [2, 2, 4], "communication_bytes": [6.2e6, 6.1e6, 4.0e6],
            "communication_share": [0.21, 0.2, 0.35], "process_max_violation": [0.4, 0.1, 0.3],
        },
        "checkpoints": [
            {
                "step": step, "checkpoint": f"runs/first/checkpoints/step-{step}", "mean": {"cv_load": 0.3},
                "layers": [_layer(rng, number, num_experts, top_k) for number in numbers],
            }
            for step in (300, 600)
        ],
        "saturation": [
            {
                "layer": number, "steps": [300, 600], "top_k": [0.7, 1.0], "top_k_chance": [0.25, 0.25], "first": [0.6, 1.0],
                "first_chance": [0.13, 0.13],
            }
            for number in numbers
        ],
        "ablation": {"tokens": 16_384, "loss": 3.46, "layers": [_ablated(rng, layer) for layer in layers]},
        "text": {"layers": list(numbers), "sequences": [_sequence(rng, num_layers, num_experts)]},
        "files": [],
    }  # fmt: skip


SCALARS = (
    "top_k", "cv_load", "cv_importance", "max_violation", "max_violation_batch", "entropy", "effective_experts", "dropped_fraction",
    "moved_fraction", "confidence", "margin",
)  # fmt: skip


def _shares(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.gamma(2.0, size=shape)
    return values / values.sum(axis=-1, keepdims=True)


def _layer(rng: np.random.Generator, number: int, num_experts: int, top_k: int) -> dict[str, Any]:
    load_E = _shares(rng, num_experts)
    entropy = float(-(load_E * np.log(load_E)).sum())
    return {
        "layer": number,
        "num_experts": num_experts,
        "top_k": float(top_k),
        "load": load_E.tolist(),
        "importance": _shares(rng, num_experts).tolist(),
        "cv_load": float(load_E.std() / load_E.mean()),
        "cv_importance": 0.2,
        "max_violation": float(load_E.max() * num_experts - 1),
        "max_violation_batch": float(load_E.max() * num_experts - 0.9),
        "entropy": entropy,
        "effective_experts": float(np.exp(entropy)),
        "dead_experts": int((load_E * num_experts < 0.01).sum()),
        "dropped_fraction": 0.02,
        "moved_fraction": 0.0,
        "confidence": 0.41,
        "margin": 0.17,
        "dropped_by_position": [0.0, 0.01, 0.02, 0.05],
    }


def _specialisation(
    rng: np.random.Generator, label: str, values: list[str], numbers: range, num_experts: int, top_k: int
) -> dict[str, Any]:
    layers = []
    for number in numbers:
        shares_VE = _shares(rng, len(values), num_experts)
        chance_VE = np.full_like(shares_VE, top_k / num_experts)
        layers.append({
            "layer": number, "mutual_information": 0.05, "nmi": 0.04, "nmi_null": NULL, "nmi_corrected": 0.03, "p_value": 0.005,
            "significant": True, "share_of_tokens": (shares_VE * top_k).tolist(), "share_of_assignments": shares_VE.tolist(),
            "chance": chance_VE.tolist(), "low": (chance_VE * 0.8).tolist(), "high": (chance_VE * 1.2).tolist(),
            "special": np.sign(np.round(shares_VE * num_experts - 1)).astype(int).tolist(),
        })  # fmt: skip
    counts = [1000 * (place + 1) for place in range(len(values))]
    return {
        "label": label, "values": values, "counts": counts, "too_rare": 0, "min_count": 20, "permutations": 200, "documents": 40,
        "layers": layers,
    }  # fmt: skip


def _vocabulary(number: int) -> dict[str, Any]:
    words = [("</script><b>", 7), (" def", 12), ("\n", 13), ("|", 14)]
    top = [{"token": word, "id": id_, "count": 120, "expert": 2, "share": 0.9, "chance": 0.25} for word, id_ in words]
    return {
        "layer": number, "token_types": 500, "min_count": 20, "mean_max_share": 0.6, "null": {"mean": 0.4, "low": 0.39, "high": 0.41},
        "p_value": 0.005, "significant": True, "top": top,
    }  # fmt: skip


def _coactivation(rng: np.random.Generator, number: int, num_experts: int) -> dict[str, Any]:
    share = rng.random((num_experts, num_experts)).round(4).tolist()
    chance = [[1 / max(1, num_experts - 1)] * num_experts for _ in range(num_experts)]
    for place in range(num_experts):
        share[place][place] = chance[place][place] = None
    special = rng.integers(-1, 2, (num_experts, num_experts)).tolist()
    return {"layer": number, "share": share, "chance": chance, "special": special, "tokens": 8192}


def _paths(rng: np.random.Generator, numbers: list[int], num_experts: int) -> dict[str, Any] | None:
    if len(numbers) < 2:
        return None
    transitions = []
    for first, second in pairwise(numbers):
        share_EE = _shares(rng, num_experts * num_experts).reshape(num_experts, num_experts)
        transitions.append({"from_layer": first, "to_layer": second, "share": share_EE.tolist()})
    top = [
        {"experts": rng.integers(0, num_experts, len(numbers)).tolist(), "count": 900 - 10 * place, "share": 0.012, "chance": 0.002}
        for place in range(10)
    ]
    return {"layers": numbers, "distinct": 431, "tokens": 75_123, "top": top, "transitions": transitions}


def _ablated(rng: np.random.Generator, layer: dict[str, Any]) -> dict[str, Any]:
    increase = (rng.gamma(1.0, size=layer["num_experts"]) * 0.02).tolist()
    return {"layer": layer["layer"], "load": layer["load"], "loss_increase": increase, "standard_error": [0.002] * layer["num_experts"]}


def _sequence(rng: np.random.Generator, num_layers: int, num_experts: int) -> dict[str, Any]:
    tokens = ["def", " area", "(", "r", "):", "\n", "    ", "return", " <b>3", ".14", " *", " r", " **", " 2", "\n"] * 8
    return {"tokens": tokens, "experts": rng.integers(-1, num_experts, (len(tokens), num_layers)).tolist()}
