"""`moecli train --profile`: a few steps of a training, watched; leaves a table and a trace, and no run.

Knows how a trainer is put together. Must not know screens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moecli.data.prepare import prepare
from moecli.model.device import check_memory, pick_device
from moecli.model.init import build_gpt
from moecli.recipe.schema import Recipe
from moecli.training.profile import PROFILED_STEPS, StepProfile, profile_steps
from moecli.training.trainer import Trainer
from moecli.workflows.batches import model_vocab_size, training_batches
from moecli.workflows.events import Listener, Stage
from moecli.workflows.plan import plan_training
from moecli.workflows.run_dir import atomic_folder
from moecli.workflows.run_path import new_run_path

TABLE, TRACE = "profile.md", "trace.json"


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """What was seen, and where it is written."""

    profile: StepProfile
    device: str
    threads: int
    """Of the CPU's operations."""
    folder: Path

    def to_json(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "device": self.device, "threads": self.threads, **self.profile.to_json()}


def profile_training(recipe: Recipe, *, out: Path | None, listener: Listener) -> ProfileResult:
    """Profiles steps of a recipe, and writes profile.md and trace.json into `out` or outputs/<name>-profile/<time>.

    Raises:
        MoecliError: anything that the user can put right; nothing is left behind then.
    """
    target = new_run_path(f"{recipe.name}-profile", out, can_resume=False)
    listener(Stage("reading and tokenizing the text"))
    data = prepare(recipe.data)
    device = pick_device(recipe.training.device)
    check_memory(plan_training(recipe, data.tokenizer.vocab_size).memory.total, device)
    torch.manual_seed(recipe.seed)
    model = build_gpt(recipe.model, model_vocab_size(recipe, data.tokenizer.vocab_size), recipe.seed).to(device)
    trainer = Trainer(model, training_batches(recipe, data.train, data.tokenizer.vocab_size), recipe.training)
    listener(Stage(f"profiling {PROFILED_STEPS} steps"))
    with atomic_folder(target) as folder:
        profile = profile_steps(trainer, folder / TRACE)
        (folder / TABLE).write_text("\n".join(_table(profile)) + "\n", encoding="utf-8")
    return ProfileResult(profile, device.type, torch.get_num_threads(), target)


def _table(profile: StepProfile) -> list[str]:
    phases = (f"{name} {milliseconds:.2f} ms" for name, milliseconds in profile.phases.items())
    lines = [f"Per step, over {profile.steps} steps: {', '.join(phases)}.", "", "| operation | calls | ms | share |", "|---|---|---|---|"]
    return lines + [f"| `{of.name}` | {of.calls:,.0f} | {of.milliseconds:.3f} | {of.share:.1%} |" for of in profile.operations]
