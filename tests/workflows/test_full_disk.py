"""A disk that fills up at any moment of a training: every file, folder, renaming and link of the run folder fails in turn."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from moecli.errors import MachineError
from moecli.model import checkpoint as checkpoint_file
from moecli.model.checkpoint import load_model
from moecli.workflows.checkpoints import last_checkpoint
from moecli.workflows.run_dir import RunDir
from tests.workflows.test_train import losses, train_tiny

SITES = {"open", "os.mkdir", "os.rename", "os.symlink"}
SETTINGS = ("training.steps=3", "training.checkpoint_every=2", "training.keep_last=1", "training.keep_best=true", "evaluation.every=2")


class FullDisk:
    """Counts what writes into `run`, and lets one of them fail. An audit hook can't be taken away again, so it is told to look or not."""

    def __init__(self) -> None:
        self.sites: list[str] | None = None
        self.failing = -1
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple) -> None:
        if self.sites is None or event not in SITES or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not isinstance(arguments[1], str):  # os.open, which flushes what is there
            return
        if event == "open" and not set(arguments[1]) & set("wax+"):
            return
        path = Path(arguments[1] if event == "os.symlink" else arguments[0]).absolute()
        if "run" in path.parts:
            self.pass_by(f"{event} {path.name}")

    def pass_by(self, site: str) -> None:
        assert self.sites is not None
        self.sites.append(site)
        if len(self.sites) - 1 == self.failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    def train(self, recipe: Path, *, failing: int) -> list[str]:
        """What was written until the end, or until the failure, which is passed on."""
        self.sites, self.failing = [], failing
        try:
            train_tiny(recipe, "run", SETTINGS)
        finally:
            sites, self.sites = self.sites, None
        return sites


@pytest.mark.slow
def test_wherever_it_fills_up_it_is_said_and_the_checkpoint_before_is_sound(tiny_recipe, monkeypatch):
    train_tiny(tiny_recipe, "undisturbed", SETTINGS)
    disk, own_save = FullDisk(), checkpoint_file.save_file

    def save_file(tensors: dict, path: Path, metadata: dict) -> None:
        if disk.sites is not None:
            disk.pass_by(f"safetensors {path.name}")
        own_save(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint_file, "save_file", save_file)
    sites = disk.train(tiny_recipe, failing=-1)
    assert {"open metrics.jsonl", "open manifest.json", "safetensors model.safetensors", "os.symlink .latest.partial"} <= set(sites)
    for number, site in enumerate(sites):
        shutil.rmtree("run", ignore_errors=True)
        with pytest.raises(MachineError, match="the disk is full") as caught:
            disk.train(tiny_recipe, failing=number)
        assert caught.value.exit_code == 1, site
        if not Path("run").exists():
            continue
        checkpoint = last_checkpoint(RunDir(Path("run")))
        if checkpoint is not None:
            load_model(checkpoint)
        train_tiny(tiny_recipe, "run", SETTINGS, resume=True)
        assert losses("run") == losses("undisturbed"), site
