"""Checkpoints from anybody: headers that lie, an index that points elsewhere, a config.json that asks for terabytes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moecli.convert.hf_folder import load_gpt
from moecli.convert.tensor_files import open_tensors
from moecli.errors import ConvertError, MoecliError, RunError
from moecli.model.checkpoint import read_tensors
from tests.convert.models import PLAIN, config_of, random_model, write_folder
from tests.hostile.bounds import within

INDEX = "model.safetensors.index.json"
TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(header: dict[str, Any] | str, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A safetensors file: the length of its header, the header, the data."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


FORGED = {
    "a header of 2^60 bytes": file_of({"a": TENSOR}, length=2**60),
    "a header of 2^64 - 1 bytes": file_of({"a": TENSOR}, length=2**64 - 1),
    "a header longer than the file": file_of({"a": TENSOR}, length=4096),
    "no header": b"",
    "half a header": struct.pack("<Q", 100),
    "offsets out of the file": file_of({"a": TENSOR | {"shape": [2**40], "data_offsets": [0, 2**42]}}),
    "offsets that overlap": file_of({"a": TENSOR, "b": TENSOR}),
    "offsets that leave a hole": file_of({"a": TENSOR | {"data_offsets": [8, 16]}}, bytes(16)),
    "offsets backwards": file_of({"a": TENSOR | {"data_offsets": [8, 0]}}),
    "a shape of more than 2^64 numbers": file_of({"a": TENSOR | {"shape": [2**32, 2**32, 2**32]}}),
    "a shape that is 2 modulo 2^64": file_of({"a": TENSOR | {"shape": [2**63 + 1, 2]}}),
    "a shape below 0": file_of({"a": TENSOR | {"shape": [-1, -2]}}),
    "a shape of more than the data": file_of({"a": TENSOR | {"shape": [3]}}),
    "an unknown type": file_of({"a": TENSOR | {"dtype": "F33"}}),
    "a name twice": file_of(f'{{"a": {json.dumps(TENSOR)}, "a": {json.dumps(TENSOR | {"data_offsets": [8, 16]})}}}', bytes(16)),
    "data beyond the tensors": file_of({"a": TENSOR}, bytes(16)),
    "a header that is a list": file_of("[]"),
    "a header of 20,000 levels": file_of('{"a":' * 20_000),
    "a tensor without a shape": file_of({"a": {"dtype": "F32"}}),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_header_that_lies_is_refused(kind, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(FORGED[kind])
    with within(megabytes=100), pytest.raises(RunError, match="damaged"):
        read_tensors(path)
    with within(megabytes=100), pytest.raises(ConvertError, match="damaged"), open_tensors(tmp_path):
        pass


def test_the_header_that_the_others_are_made_of_is_sound(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(file_of({"a": TENSOR}))
    assert read_tensors(tmp_path / "model.safetensors")["a"].tolist() == [0.0, 0.0]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A whole mixtral in several files, in a folder of its own."""
    return write_folder(random_model(config_of(PLAIN["mixtral"])), tmp_path / "folder", max_bytes=20_000)


def readers() -> list[Callable[[Path], object]]:
    """Of convert and of route-stats."""
    pytest.importorskip("transformers")
    from moecli.analysis.hf_model import load_huggingface

    return [load_gpt, load_huggingface]


def refusals(folder: Path) -> list[MoecliError]:
    """What each of the readers says, which opens nothing outside of the folder."""
    errors = []
    for read in readers():
        with within(seconds=20, megabytes=1000), pytest.raises(MoecliError) as caught:
            read(folder)
        assert caught.value.exit_code == 2 and str(folder) in caught.value.where
        errors.append(caught.value)
    return errors


def point_index(folder: Path, to: Callable[[str], str]) -> str:
    """Changes the name of the first file in the index; returns that name."""
    path = folder / INDEX
    content = json.loads(path.read_text())
    first = min(content["weight_map"].values())
    content["weight_map"] = {name: to(file) if file == first else file for name, file in content["weight_map"].items()}
    path.write_text(json.dumps(content))
    return first


def test_the_folder_that_is_damaged_below_is_sound(folder):
    for read in readers():
        assert read(folder)


@pytest.mark.parametrize("way", ["../{}", "{above}/{}", "sub/../../{}", "./../{}", "..\\{}"])
def test_an_index_that_points_out_of_the_folder_is_refused(way, folder):
    # What it names is there and would fit.
    first = point_index(folder, lambda file: way.format(file, above=folder.parent))
    (folder / first).rename(folder.parent / first)
    (folder / "sub").mkdir()
    assert all("names" in error.what and error.where == str(folder / INDEX) for error in refusals(folder))


@pytest.mark.parametrize("name", ["a\0.safetensors", "a\ud800.safetensors", "", ".", "..", "a.bin", "a.pt", "/dev/zero"])
def test_an_index_with_names_that_are_none_is_refused(name, folder):
    point_index(folder, lambda file: name)
    assert all("names" in error.what and error.where == str(folder / INDEX) for error in refusals(folder))


@pytest.mark.parametrize("name", ["model-00001-of-00004.safetensors", "config.json", INDEX])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_file_that_is_no_file_is_not_read(name, kind, folder):
    path = folder / name
    assert path.is_file()
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir}[kind]()
    refusals(folder)


def test_a_file_may_be_a_link_as_in_the_cache_of_the_hub(folder):
    (folder.parent / "blobs").mkdir()
    for path in sorted(folder.iterdir()):
        path.rename(folder.parent / "blobs" / path.name)
        path.symlink_to(f"../blobs/{path.name}")
    for read in readers():
        assert read(folder)


HOLES = {  # bytes of a file that takes no room on the disk; weights are mapped into memory, which the tests' limit counts
    "config.json": 2**38,
    INDEX: 2**38,
    "model-00001-of-00004.safetensors": 600_000_000,
}


@pytest.mark.parametrize("name", HOLES)
def test_a_file_of_holes_is_not_read(name, folder):
    path = folder / name
    path.unlink()
    with path.open("wb") as file:
        file.write((HOLES[name] - 8).to_bytes(8, "little"))  # for safetensors, the length of a header that is really there
        file.truncate(HOLES[name])
    for error in refusals(folder):
        assert ("more than 100 MB" in error.what and error.where == str(path)) or "header too large" in error.what


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_json_of_100_000_levels_is_refused(name, folder):
    (folder / name).write_text('{"model_type": "mixtral", "weight_map": ' + '{"a":' * 100_000 + "1" + "}" * 100_001)
    assert all(error.where == str(folder / name) for error in refusals(folder))


SIZES = {
    "layers": {"num_hidden_layers": 2**31 - 1},
    "layers that are just too many": {"num_hidden_layers": 2**20},
    "experts": {"num_local_experts": 2**24, "num_experts": 2**24},
    "vocabulary": {"vocab_size": 2**60},
    "vocabulary of 16 TB": {"vocab_size": 2**38},
    "width": {"hidden_size": 2**28},
    "width of experts": {"intermediate_size": 2**40},
    "heads": {"num_attention_heads": 2**40},
    "size of heads": {"head_dim": 2**40},
}
COUNTED = ("layers", "layers that are just too many", "experts")


@pytest.mark.parametrize("kind", SIZES)
def test_a_config_that_asks_for_more_than_its_files_hold_is_refused(kind, folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | SIZES[kind]))
    errors = refusals(folder)
    assert all(error.where == str(path) for error in errors)
    # Not because memory ran out. One number is too large for torch to count.
    expected = (
        "Storage size calculation overflowed" if kind == "vocabulary" else f"the files hold {'96 tensors' if kind in COUNTED else ''}"
    )
    assert expected in errors[1].what


def test_layers_times_experts_are_counted(tmp_path):
    # 3 layers of 8 experts are 3 * 8 * 3 + 3 * 7 + 3 = 96 tensors; 90 experts in each would be fewer than these, and 270 in all more.
    folder = write_folder(random_model(config_of(PLAIN["mixtral"])), tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_local_experts": 90, "num_experts": 90}))
    with pytest.raises(ConvertError, match="describes 3 layers and 90 experts, the files hold 96 tensors"):
        load_gpt(folder)


@pytest.mark.parametrize("is_known", [False, True])
def test_programs_of_a_checkpoint_are_not_imported(is_known, folder):
    (folder / "modeling_theirs.py").write_text(f"import os\nos.mkdir({str(folder / 'ran')!r})\nclass Model: ...\n")
    (folder / "__init__.py").write_text(f"import os\nos.mkdir({str(folder / 'ran')!r})\n")
    path = folder / "config.json"
    theirs = {
        "auto_map": {"AutoConfig": "modeling_theirs.Model", "AutoModelForCausalLM": "modeling_theirs.Model"},
        "trust_remote_code": True,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | theirs | ({} if is_known else {"model_type": "theirs"})))
    if is_known:
        assert all(read(folder) for read in readers())
    else:
        refusals(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("adapter_config.json", {"base_model_name_or_path": "/etc"}), ("config.json", {"transformers_weights": "../other.safetensors"})],
)
def test_route_stats_reads_no_other_place_that_a_checkpoint_names(name, content, folder):
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | content))
    with pytest.raises(RunError) as caught:
        readers()[1](folder)
    assert caught.value.where == str(path)
