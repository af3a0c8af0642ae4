"""What is known of an arm in the end, in the unit by which arms are compared.

Knows one arm and its finished runs. Must not know other arms.
"""

from __future__ import annotations

from dataclasses import dataclass

from moecli.analysis.learning_curve import LearningCurve
from moecli.workflows.compare_arms import Arm
from moecli.workflows.compare_measures import DecodeSpeed
from moecli.workflows.compare_notes import Measure
from moecli.workflows.compare_runs import FinishedRun


@dataclass(frozen=True, slots=True)
class ArmResult:
    """All that is known of an arm in the end."""

    arm: Arm
    runs: tuple[FinishedRun, ...]
    """One per seed, in the same order for every arm."""
    peak_memory_bytes: int
    decode_speed: DecodeSpeed | None

    def final_values(self, measure: Measure) -> list[float]:
        return [run.val_loss * _scale(run, measure) for run in self.runs]

    def curve(self, run: FinishedRun, measure: Measure, *, over_seconds: bool) -> LearningCurve:
        """One run's validations over tokens, or over seconds."""
        tokens = [step * self.arm.tokens_per_step for step in run.validated_steps]
        scale = _scale(run, measure)
        return LearningCurve(run.validated_seconds if over_seconds else tokens, [loss * scale for loss in run.val_losses])


def _scale(run: FinishedRun, measure: Measure) -> float:
    """From nats per token to what is compared: on one text, bits per byte are a multiple of it."""
    if measure == "loss":
        return 1.0
    assert run.bits_per_byte is not None
    return run.bits_per_byte / run.val_loss
