"""A disk that fills at any write of any command: every file, folder, renaming, link and flush fails in turn.

Nothing half-written is left, what was there before is as it was, and the same command, with room, does its work.
Training has its own such test: tests/workflows/test_full_disk.py.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from moecli.model import checkpoint as checkpoint_file
from tests.hostile.damage import copy_of
from tests.hostile.runs import make_runs, said

SITES = {"open", "os.mkdir", "os.rename", "os.symlink"}
SPARSE = ["--set", "model.ffn.kind=sparse", "--set", "model.ffn.num_experts=2", "--set", "model.ffn.d_expert=16"]
COMMANDS = {
    "route-stats": ["route-stats", "sparse", "--out", "out"],
    "route-stats --compare": ["route-stats", "--compare", "sparse", "other", "--out", "out"],
    "convert": ["convert", "sparse", "out", "--no-verify"],
    "convert a Hugging Face folder": ["convert", "hf", "out", "--to", "moecli", "--no-verify"],
    "convert --to moecli": ["convert", "sparse", "out", "--to", "moecli"],
    "convert --resize": ["convert", "sparse", "out", "--resize", "prune", "--experts", "2", "--by", "random"],
    "convert --upcycle": ["convert", "dense", "out", "--upcycle", "copies", *SPARSE],
    "convert --mix": ["convert", "dense", "dense", "out", "--mix", *SPARSE],
    "eval, and the cache": ["eval", "sparse", "--top-k", "1,2"],
    "recipes copy": ["recipes", "copy", "quickstart", "out.yaml"],
}


class FullDisk:
    """Counts what is written below a folder, and lets one of these fail. An audit hook can't be taken away again, so it is told to look
    or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sites: list[str] | None = None
        self.failing = -1
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.sites is None or event not in SITES or not isinstance(arguments[0], str | os.PathLike):
            return
        # os.open comes without a mode: it flushes what is there.
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        path = Path(arguments[1] if event == "os.symlink" else arguments[0]).absolute()
        if path.is_relative_to(self.folder):
            self.pass_by(f"{event} {path.name}")

    def pass_by(self, site: str) -> None:
        if self.sites is not None:
            self.sites.append(site)
            if len(self.sites) - 1 == self.failing:
                raise OSError(errno.ENOSPC, "No space left on device")

    def call(self, arguments: list[str], *, failing: int) -> tuple[int, str, list[str]]:
        """Exit code, message, and what was written until the end or until the failure."""
        self.sites, self.failing = [], failing
        try:
            code, message = said(arguments)
        finally:
            sites, self.sites = self.sites, None
        return code, message, sites


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """The disk of a folder with runs in it, which is the working directory."""
    folder, before = tmp_path_factory.mktemp("full"), Path.cwd()
    os.chdir(folder)
    make_runs(folder)
    copy_of(Path("sparse"), Path("other"))
    assert said(["convert", "sparse", "hf", "--no-verify"])[0] == 0
    full_disk = FullDisk(folder)
    own_save, own_sync = checkpoint_file.save_file, os.fsync

    def save_file(tensors: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
        full_disk.pass_by(f"safetensors {path.name}")
        own_save(tensors, path, metadata=metadata)

    def sync(descriptor: int) -> None:
        full_disk.pass_by("fsync")
        own_sync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_file, "save_file", save_file)
        patch.setattr(os, "fsync", sync)
        yield full_disk
    os.chdir(before)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, folder and link below, the cache left out; locks that stay behind hold nothing."""
    paths = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "cache" and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in paths}


def fail_everywhere(disk: FullDisk, command: str, *, every: int = 1, is_there: bool = False) -> list[str]:
    """Lets every so-manieth write of a command fail; returns these writes.

    Args:
        is_there: the report was made before.
    """
    arguments = COMMANDS[command]
    _fresh(disk)
    if is_there:
        assert said(arguments)[0] == 0
    before = contents(disk.folder)
    code, message, sites = disk.call(arguments, failing=-1)
    assert code == 0, message
    done = contents(disk.folder).keys()
    for number in range(0, len(sites), every):
        if not is_there:
            _fresh(disk)
        shutil.rmtree(disk.folder / "cache", ignore_errors=True)
        code, message, _ = disk.call(arguments, failing=number)
        assert code == 1 and "the disk is full" in " ".join(message.split()), (command, sites[number], code, message)
        after = contents(disk.folder)
        # A folder that has its name is whole, also where the flush of the folder around it fails.
        is_whole = sites[number:] == ["fsync"] and after.keys() == done
        assert after == before or is_whole, (command, sites[number])
        assert not list(disk.folder.glob("cache/.*")), (command, sites[number])
    if not is_there:
        _fresh(disk)
    assert said(arguments)[0] == 0
    return sites[::every]


def _fresh(disk: FullDisk) -> None:
    for path in disk.folder.glob("out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(disk.folder / "cache", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_anywhere_is_told_and_harms_nothing(disk, command):
    sites = fail_everywhere(disk, command)
    sys.stderr.write(f"{command}: {len(sites)} writes\n")  # shown by `pytest -s`


@pytest.mark.slow
def test_a_report_that_was_there_stays(disk):
    assert fail_everywhere(disk, "route-stats --compare", is_there=True)


@pytest.mark.parametrize(
    ("command", "every"),
    [("convert --to moecli", 3), ("convert", 3), ("convert --upcycle", 7), ("eval, and the cache", 2), ("recipes copy", 1)],
)
def test_a_sample_of_writes(disk, command, every):
    assert fail_everywhere(disk, command, every=every)


def test_the_last_renaming_of_a_report_gives_the_old_one_back(disk):
    _fresh(disk)
    arguments = COMMANDS["route-stats --compare"]
    assert said(arguments)[0] == 0
    before = contents(disk.folder)
    sites = disk.call(arguments, failing=-1)[2]
    last = max(number for number, site in enumerate(sites) if site == "os.rename .out.partial")
    code, message, _ = disk.call(arguments, failing=last)
    assert code == 1 and "the disk is full" in message
    assert contents(disk.folder).keys() == before.keys()
