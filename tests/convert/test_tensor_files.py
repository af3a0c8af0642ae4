"""Safetensors files: shards in and out, and every way in which they can be broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moecli.convert.hf_folder import load_gpt
from moecli.convert.rules import Made
from moecli.convert.tensor_files import INDEX_FILE, open_tensors, plan_shards, write_shards
from moecli.errors import ConvertError
from tests.convert.models import PLAIN, config_of, random_model, write_folder


def made(name: str, *values: float, keeps_float32: bool = False) -> Made:
    return Made(name, (len(values),), keeps_float32, lambda: torch.tensor(values))


def test_shards_are_filled_in_order():
    # 4 bytes a number: files of at most 12 bytes take 3 numbers; a tensor of 4 has one of its own.
    tensors = [made("a", 1, 2), made("b", 3), made("c", 4), made("d", 5, 6, 7, 8), made("e", 9)]
    shards = plan_shards(tensors, torch.float32, max_bytes=12)
    assert [[tensor.name for tensor in shard.tensors] for shard in shards] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert [shard.file for shard in shards][:2] == ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"]
    # 2 bytes a number.
    [first, second] = plan_shards(tensors, torch.bfloat16, max_bytes=12)
    assert [tensor.name for tensor in first.tensors] == ["a", "b", "c"]
    assert [tensor.name for tensor in second.tensors] == ["d", "e"]


def test_shards_are_read_as_they_were_written(tmp_path):
    tensors = [made("a", 1, 2), made("b", 3), made("c", 0, 0, 0), made("bias", 0.1, keeps_float32=True)]
    list(write_shards(plan_shards(tensors, torch.bfloat16, 8), tmp_path, torch.bfloat16))
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == 2 * 6 + 4
    with open_tensors(tmp_path) as files:
        assert files.shapes == {"a": (2,), "b": (1,), "c": (3,), "bias": (1,)}
        assert files.read("a").dtype == torch.bfloat16
        assert files.read("a").tolist() == [1, 2]
        assert files.read("bias").item() == torch.tensor(0.1).item()
        assert files.is_zero("c") and files.is_zero("none") and not files.is_zero("b")
        assert files.file_of("a").name == index["weight_map"]["a"]
        assert files.file_of("none").name == INDEX_FILE


def test_a_number_too_large_for_the_type_is_refused(tmp_path):
    list(write_shards(plan_shards([made("a", 1e5)], torch.bfloat16, 8), tmp_path, torch.bfloat16))
    with pytest.raises(ConvertError, match="tensor a holds numbers that are too large for float16"):
        list(write_shards(plan_shards([made("a", 1e5)], torch.float16, 8), tmp_path, torch.float16))


@pytest.fixture
def sharded(tmp_path) -> Path:
    """A whole mixtral in several files, to be damaged."""
    return write_folder(random_model(config_of(PLAIN["mixtral"])), tmp_path / "mixtral", max_bytes=20_000)


def weight_map(folder: Path) -> dict[str, str]:
    return json.loads((folder / INDEX_FILE).read_text())["weight_map"]


def change(folder: Path, name: str, tensor: torch.Tensor | None) -> str:
    """Puts another tensor in the place of this one, or takes it away; returns the file."""
    file = weight_map(folder).get(name) or sorted(weight_map(folder).values())[0]
    tensors = load_file(folder / file) | {name: tensor}
    save_file({key: value for key, value in tensors.items() if value is not None}, folder / file, metadata={"format": "pt"})
    return file


def refusal(folder: Path) -> ConvertError:
    with pytest.raises(ConvertError) as caught:
        load_gpt(folder)
    assert caught.value.exit_code == 2
    return caught.value


EXPERT = "model.layers.1.block_sparse_moe.experts.2.w1.weight"


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (None, f"tensor {EXPERT} is missing, by the index it is here"),
        (torch.zeros(12, 17), f"tensor {EXPERT} has the shape [12, 17], by config.json it should be [12, 16]"),
        (torch.full((12, 16), float("nan")), f"tensor {EXPERT} holds values that are no numbers"),
        (torch.full((12, 16), float("-inf")), f"tensor {EXPERT} holds values that are no numbers"),
        (torch.zeros(12, 16, dtype=torch.int8), f"tensor {EXPERT} is of type I8: quantised weights can't be converted"),
        (torch.zeros(12, 16, dtype=torch.float8_e5m2), f"tensor {EXPERT} is of type F8_E5M2: quantised weights can't be converted"),
        (torch.zeros(12, 16, dtype=torch.int64), f"tensor {EXPERT} is of type I64: whole numbers can't be converted"),
    ],
    ids=["missing", "shape", "nan", "infinite", "quantised", "quantised float", "whole numbers"],
)
def test_a_bad_tensor_is_named_with_its_file(sharded, tensor, what):
    file = change(sharded, EXPERT, tensor)
    error = refusal(sharded)
    assert what in error.what
    assert error.where == str(sharded / file)


def test_a_tensor_that_is_too_much_is_named_with_its_file(sharded):
    file = change(sharded, "model.layers.0.extra", torch.zeros(1))
    error = refusal(sharded)
    assert "tensor model.layers.0.extra is not part of the model that config.json describes" in error.what
    assert error.where == str(sharded / file)


def test_a_tensor_that_is_missing_everywhere(tmp_path):
    folder = write_folder(random_model(config_of(PLAIN["qwen2_moe"])), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"], tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    error = refusal(folder)
    assert error.what == "tensors model.norm.weight, lm_head.weight are missing"
    assert error.where == str(folder / "model.safetensors")


@pytest.mark.parametrize("share", [0, 4, 0.5, 0.999])
def test_a_file_that_is_cut_short(sharded, share):
    path = sharded / sorted(set(weight_map(sharded).values()))[1]
    content = path.read_bytes()
    path.write_bytes(content[: int(share if share >= 1 else share * len(content))])
    error = refusal(sharded)
    assert "damaged or cut short" in error.what
    assert error.where == str(path)


def test_files_that_are_not_there(sharded):
    file = weight_map(sharded)[EXPERT]
    (sharded / file).unlink()
    error = refusal(sharded)
    assert error.what == "there is no such file"
    assert error.where == str(sharded / file)


def test_a_tensor_in_two_files(sharded):
    first, second = sorted(set(weight_map(sharded).values()))[:2]
    name = next(key for key, file in weight_map(sharded).items() if file == first)
    tensors = load_file(sharded / second) | {name: load_file(sharded / first)[name]}
    save_file(tensors, sharded / second, metadata={"format": "pt"})
    assert f"tensor {name} stands in {first} too" in refusal(sharded).what


def test_an_index_beside_a_file_that_it_does_not_name(sharded):
    save_file({"a": torch.ones(1)}, sharded / "model.safetensors")
    error = refusal(sharded)
    assert "both model.safetensors and model.safetensors.index.json are in it" in error.what
    assert error.where == str(sharded)


def test_a_number_that_is_finite_in_float64_alone(sharded):
    change(sharded, EXPERT, torch.full((12, 16), 1e300, dtype=torch.float64))
    assert f"tensor {EXPERT} holds values that are no numbers (NaN, infinite, or too large for float32)" in refusal(sharded).what
    change(sharded, EXPERT, torch.full((12, 16), 0.1, dtype=torch.float64))
    weights = load_gpt(sharded)[0].state_dict()["blocks.1.ffn.experts.in_proj"][2, :12]
    assert torch.equal(weights, torch.full((12, 16), 0.1))


@pytest.mark.parametrize(
    ("index", "what"),
    [
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ("[]", "damaged"),
        ('{"weight_map": {}}', "names no files"),
        ('{"weight_map": {"a": ".."}}', "names a file outside the folder: .."),
        ('{"weight_map": {"a": "../model.safetensors"}}', "names a file outside the folder: ../model.safetensors"),
    ],
)
def test_a_bad_index(sharded, index, what):
    (sharded / INDEX_FILE).write_text(index)
    error = refusal(sharded)
    assert what in error.what
    assert error.where == str(sharded / INDEX_FILE)


def test_pickles_are_refused_with_the_reason(tmp_path):
    folder = write_folder(random_model(config_of(PLAIN["llama"])), tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "loading a pickle can run any program" in refusal(folder).what
    (folder / "pytorch_model.bin").unlink()
    assert "there is no model.safetensors and no model.safetensors.index.json in it" in refusal(folder).what


@pytest.mark.parametrize("content", ["{", "[]", '{"vocab_size": 3}', None])
def test_a_damaged_config(content, tmp_path):
    folder = write_folder(random_model(config_of(PLAIN["llama"])), tmp_path)
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    assert refusal(folder).where == str(folder / "config.json")
