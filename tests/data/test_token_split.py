"""What is written is what is read, and what is not whole is not read."""

from __future__ import annotations

import numpy as np
import pytest

from moecli.data.token_split import LabelTable, SplitWriter, id_type, open_split
from moecli.errors import DataError

ARRAYS = ["train.ids", "train.label0", "train.label1"]


@pytest.fixture
def written(tmp_path):
    tables = {"domain": LabelTable("domain"), "a/b": LabelTable("a/b")}
    with SplitWriter(tmp_path, "train", id_type(10), 9, tables) as writer:
        writer.add([1, 2], {"domain": np.array([1, 1]), "a/b": np.array([0, 2])}, num_bytes=5)
        writer.add([3], {"domain": np.array([2]), "a/b": np.array([1])}, num_bytes=1)
        for table, values in zip(tables.values(), (["code", "prose"], ["x", "y"]), strict=True):
            for value in values:
                table.number(value)
        return writer.finish()


def test_the_stream_by_hand(tmp_path, written):
    split = open_split(tmp_path, "train", written)
    assert split.ids.tolist() == [9, 1, 2, 9, 3, 9]
    assert split.labels["domain"].tolist() == [0, 1, 1, 0, 2, 0]
    assert split.labels["a/b"].tolist() == [0, 0, 2, 0, 1, 0]
    assert split.label_names == {"domain": ("", "code", "prose"), "a/b": ("", "x", "y")}
    assert (split.name, split.num_bytes, split.num_documents) == ("train", 6, 2)


def test_arrays_are_memory_mapped_and_read_only(tmp_path, written):
    split = open_split(tmp_path, "train", written)
    for array in (split.ids, *split.labels.values()):
        assert isinstance(array, np.memmap)
        assert array.filename.parent == tmp_path
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", ["shorter", "longer", "gone"])
def test_what_is_not_whole_is_not_read(tmp_path, written, name, damage):
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "shorter" else content + b"x")
    assert open_split(tmp_path, "train", written) is None


def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path):
    assert id_type(2**16) == np.uint16
    assert id_type(2**16 + 1) == np.uint32
    with SplitWriter(tmp_path, "train", id_type(2**17), 2**17 - 1, {}) as writer:
        writer.add([70_000], {}, num_bytes=1)
        described = writer.finish()
    assert open_split(tmp_path, "train", described).ids.tolist() == [2**17 - 1, 70_000, 2**17 - 1]


def test_too_many_label_values():
    table = LabelTable("year")
    for value in range(1, 2**16):
        assert table.number(str(value)) == value
    with pytest.raises(DataError, match="'year' has more than 65,535 values") as caught:
        table.number("one more")
    assert "data.corpus.label_column" in str(caught.value)
    assert "few values" in caught.value.next_step
