"""When two trainings are the same.

Knows curves. Must not know how they were made.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.parallel.trainings import Curve


def assert_same_training(ours: Curve, expected: Curve) -> None:
    """Losses and gradient norms of every step to 1e-5, loads exactly, final weights to 1e-4."""
    assert len(ours.losses) == len(expected.losses) > 0
    for step, (our_losses, losses) in enumerate(zip(ours.losses, expected.losses, strict=True)):
        assert our_losses == pytest.approx(losses, abs=1e-5), f"losses of step {step}"
    assert ours.grad_norms == pytest.approx(expected.grad_norms, abs=1e-5)
    for ours_, loads in ((ours.loads, expected.loads), (ours.chosen_loads, expected.chosen_loads)):
        assert all(torch.equal(ours_LE, load_LE) for ours_LE, load_LE in zip(ours_, loads, strict=True) if load_LE is not None)
    assert_close(ours.weights, expected.weights)


def assert_close(ours: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
