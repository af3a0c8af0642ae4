"""Nothing of a checkpoint can change unnoticed: the folder of these tests is a small one, and every file of it is damaged in turn."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path

import pytest

from moecli.errors import RunError
from moecli.model.manifest import MANIFEST_FILE, add_to_manifest, check_manifest

CONTENTS = {"weights": bytes(range(256)) * 4, "config.json": b'{"a": 1}\n', "empty": b""}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    add_to_manifest(tmp_path, ["weights"])
    add_to_manifest(tmp_path, ["config.json", "empty"])
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(RunError) as caught:
        check_manifest(folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_folder_as_it_was_written_passes(folder):
    check_manifest(folder)
    (folder / ".DS_Store").write_text("a file manager's")
    check_manifest(folder)


def test_the_manifest_says_size_and_hash(folder):
    files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    assert files == {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in CONTENTS.items()}


def test_an_entry_can_be_renewed(folder):
    (folder / "weights").write_bytes(b"others")
    assert "weights: damaged: 6 bytes, 1,024 were written" in refused(folder)
    add_to_manifest(folder, ["weights"])
    check_manifest(folder)


def test_all_that_is_wrong_is_named_at_once(folder):
    (folder / "weights").unlink()
    (folder / "foreign.bin").write_bytes(b"x")
    (folder / "config.json").write_bytes(b'{"a": 2}\n')
    message = refused(folder)
    assert "config.json: damaged: its SHA-256" in message
    assert "foreign.bin: not in manifest.json" in message
    assert "weights: there is no such file" in message
    assert "next: use another checkpoint" in message


def test_without_a_manifest_nothing_is_sound(folder):
    (folder / MANIFEST_FILE).unlink()
    assert "manifest.json: there is no such file" in refused(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', '{"files": {"weights": 3}}', "[" * 5000])
def test_another_manifest_is_damaged_not_believed(folder, text):
    (folder / MANIFEST_FILE).write_text(text)
    assert f"{MANIFEST_FILE}: damaged" in refused(folder)


def test_a_forged_size_in_a_manifest_is_not_believed(folder):
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text.replace('"bytes": 1024', '"bytes": 1025'))
    assert f"{MANIFEST_FILE}: damaged" in refused(folder)


@pytest.mark.parametrize("name", [*CONTENTS, MANIFEST_FILE])
def test_every_cut_and_every_flipped_bit_is_found_with_the_name_of_the_file(folder, name):
    path = folder / name
    whole = path.read_bytes()
    cuts = range(0, len(whole), max(1, len(whole) // 50))
    places = random.Random(0).sample(range(8 * len(whole)), min(200, 8 * len(whole)))
    flips = (whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :] for bit in places)
    for content in (*(whole[:cut] for cut in cuts), *flips, whole + b"\0"):
        path.write_bytes(content)
        assert f"{folder / name}: damaged" in refused(folder)
    path.write_bytes(whole)
    check_manifest(folder)


@pytest.mark.parametrize(("name", "message"), [("empty", "empty: no regular file"), (MANIFEST_FILE, f"{MANIFEST_FILE}: damaged")])
def test_a_pipe_in_the_place_of_a_file_is_not_read(folder, name, message):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert message in refused(folder)
