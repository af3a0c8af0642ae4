"""A run folder from anybody holds links: nothing outside of it is written, removed or taken for a part of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moecli.errors import RecipeError
from moecli.recipe.load import load_recipe
from moecli.workflows.run_dir import RunDir, find_checkpoint
from tests.hostile.bounds import within
from tests.hostile.damage import copy_of
from tests.hostile.runs import make_runs, said


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two sound runs, which is the working directory."""
    folder, before = tmp_path_factory.mktemp("links"), Path.cwd()
    os.chdir(folder)
    make_runs(folder)
    yield folder
    os.chdir(before)


@pytest.fixture
def run(place) -> RunDir:
    """A copy of a run, to be given links; no other than this is left of earlier ones."""
    for path in (place / "precious", place / "out"):
        shutil.rmtree(path, ignore_errors=True)
    (place / "precious").mkdir()
    return RunDir(copy_of(Path("sparse"), Path("run")))


def link(path: Path, *, move: bool = True) -> Path:
    """Puts a link in the place of a file or folder, which goes to `precious`; returns where it is then."""
    target = Path("precious").resolve() / path.name
    if move and path.exists():
        path.rename(target)
    else:
        target.write_text("precious", encoding="utf-8")
    path.symlink_to(target)
    return target


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in sorted(Path("precious").rglob("*"))}


RESUME = ["train", "sparse.yaml", "--out", "run", "--resume", "--set", "training.steps=8"]


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "routing", "result.json", "environment.json"])
def test_a_training_that_goes_on_writes_nothing_through_a_link(name, run):
    link(run.path / name)
    before = contents()
    code, message = said(RESUME)
    assert contents() == before
    assert code == 0 or f"{name}: a link, where a file of the run belongs" in " ".join(message.split())


def test_a_checkpoint_that_lies_elsewhere_is_not_the_runs_own(run):
    link(run.checkpoint(6))
    before = contents()
    for arguments in (["eval", "run"], RESUME, ["generate", "run", "--max-tokens", "1"]):
        code, message = said(arguments)
        assert code == 2 and "points out of the run's checkpoints" in message
    assert contents() == before


@pytest.mark.parametrize("target", ["../../dense/checkpoints/step-6", "{}/dense/checkpoints/step-6", "/", "..", "latest"])
def test_latest_points_at_no_other_place(target, run, place):
    run.latest.unlink()
    run.latest.symlink_to(target.format(place))
    code, message = said(["eval", "run"])
    assert code == 2 and ("latest" in message or "neither a run folder" in message)


NEW = {
    "train": ["train", "sparse.yaml", "--out", "out"],
    "convert": ["convert", "run", "out", "--no-verify"],
    "convert --to moecli": ["convert", "run", "out", "--to", "moecli"],
    "recipes copy": ["recipes", "copy", "quickstart", "out"],
}


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("command", NEW)
def test_what_is_made_anew_is_not_made_through_a_link(command, is_there, run):
    target = Path("precious").resolve() / "target"
    if is_there:
        target.write_text("precious", encoding="utf-8")
    Path("out").unlink(missing_ok=True)
    Path("out").symlink_to(target)
    try:
        code, _ = said(NEW[command])
        assert target.exists() is is_there and contents() == ({Path("precious/target"): b"precious"} if is_there else {})
        # A file of one's own that is a link to nothing may be replaced by the recipe.
        assert code == 2 or (command == "recipes copy" and not is_there and not Path("out").is_symlink())
    finally:
        Path("out").unlink()


def test_a_run_may_be_a_link_itself(run):
    Path("link").unlink(missing_ok=True)
    Path("link").symlink_to("run")
    assert find_checkpoint(Path("link"))[1].resolve() == run.checkpoint(6).resolve()
    assert said(["eval", "link"])[0] == 0


NAMES = ("../../x", "/x", "a/b", "..", ".", "a\\b", "a\nb", "-rf", "~", "$(x)", "\x1b[31m", "[red]", "\u202e", "{{ 7*7 }}", "a" * 300)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_not_name_a_folder_elsewhere(name, place):
    Path("named.yaml").write_text(f"{Path('sparse.yaml').read_text().replace('name: tiny', f'name: {json.dumps(name)}')}")
    code, message = said(["train", "named.yaml"])
    assert code == 2 and "can't be the name of a run folder" in " ".join(message.split())
    assert not Path("outputs").exists()


PIPES: dict[str, Callable[[RunDir], Path]] = {
    "recipe.yaml": lambda run: run.recipe,
    "tokenizer.json": lambda run: run.tokenizer,
    "config.json": lambda run: run.checkpoint(6) / "config.json",
    "manifest.json": lambda run: run.checkpoint(6) / "manifest.json",
    "model.safetensors": lambda run: run.checkpoint(6) / "model.safetensors",
}


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_a_run_is_not_waited_for(name, kind, run):
    path = PIPES[name](run)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with within(seconds=8, megabytes=1500):
        code, message = said(["generate", "run", "--max-tokens", "1"])
    assert code == 2 and path.name in message


def test_a_recipe_that_is_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with within(seconds=5, megabytes=300), pytest.raises(RecipeError):
            load_recipe(path)
