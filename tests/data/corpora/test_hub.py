"""The real loading code of `datasets` on local folders, and its failures in our words."""

from __future__ import annotations

import errno
import json

import pytest

from moecli.data.corpora import HubCorpus
from moecli.errors import DataError, MachineError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "set"
    path.mkdir()
    for split, count in (("train", 5), ("test", 2)):
        rows = [{"text": f"{split} {number}", "topic": f"t{number % 2}"} for number in range(count)]
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fails(expected, **options):
    with pytest.raises(expected) as caught:
        list(HubCorpus(**options).documents())
    assert caught.value.next_step
    return str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_folder(folder, capfd, streaming):
    corpus = HubCorpus(path=str(folder), label_column="topic", streaming=streaming)
    documents = list(corpus.documents())
    assert [document.text for document in documents] == [f"train {number}" for number in range(5)]
    assert [document.labels["topic"][0].value for document in documents] == ["t0", "t1", "t0", "t1", "t0"]
    assert corpus.label_kinds() == ("topic",)
    assert [document.text for document in corpus.documents()] == [document.text for document in documents]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("streaming", [False, True])
def test_another_split_and_a_limit(folder, streaming):
    corpus = HubCorpus(path=str(folder), split="test", streaming=streaming)
    assert [document.text for document in corpus.documents()] == ["test 0", "test 1"]
    first = corpus.model_copy(update={"max_documents": 1})
    assert [document.text for document in first.documents()] == ["test 0"]


def test_configurations(folder):
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: train.jsonl\n- config_name: two\n  data_files: test.jsonl\n---\n"
    )
    assert [d.text for d in HubCorpus(path=str(folder), config_name="two").documents()] == ["test 0", "test 1"]
    assert "one" in fails(DataError, path=str(folder), config_name="three")


@pytest.mark.parametrize("streaming", [False, True])
def test_numbered_labels_have_names(folder, tmp_path, streaming):
    import pyarrow.parquet as pq

    features = datasets.Features({"text": datasets.Value("string"), "topic": datasets.ClassLabel(names=["news", "fiction"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "topic": [1, 0, -1]}, features=features)
    path = tmp_path / "numbered"
    path.mkdir()
    pq.write_table(rows.data.table, path / "train.parquet")
    documents = list(HubCorpus(path=str(path), label_column="topic", streaming=streaming).documents())
    assert [[spans[0].value for spans in document.labels.values()] for document in documents] == [["fiction"], ["news"], []]


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(list(HubCorpus(path="~/set").documents())) == 5


@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_split_or_column(folder, streaming):
    assert "missing" in fails(DataError, path=str(folder), split="missing", streaming=streaming)
    message = fails(DataError, path=str(folder), text_column="body", streaming=streaming)
    assert "no column 'body'" in message
    assert "text, topic" in message


@pytest.mark.parametrize("streaming", [False, True])
def test_a_damaged_file(folder, capfd, streaming):
    (folder / "train.jsonl").write_text('{"text": oops}\n')
    message = fails(DataError, path=str(folder), streaming=streaming)
    assert f"corpus hub ({folder}, split train)" in message
    assert capfd.readouterr() == ("", "")


def test_a_missing_folder(tmp_path):
    message = fails(DataError, path=str(tmp_path / "missing"))
    assert str(tmp_path / "missing") in message
    assert "data.corpus.path" in message


def test_a_folder_without_data(tmp_path):
    assert str(tmp_path) in fails(DataError, path=str(tmp_path))


def raise_from_datasets(monkeypatch, error):
    def load_dataset(*args, **kwargs):
        raise RuntimeError("something went wrong") from error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_without_network_it_says_so(monkeypatch):
    raise_from_datasets(monkeypatch, ConnectionError("no route to host"))
    message = fails(DataError, path="owner/name")
    assert "owner/name" in message
    assert "the hub can't be reached" in message
    assert "local folder" in message


def test_a_full_disk_is_the_machines(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    raise_from_datasets(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    message = fails(MachineError, path="owner/name")
    assert str(tmp_path / "cache") in message
    assert "the disk is full" in message
    assert "HF_HOME" in message


def test_code_of_a_data_set_is_never_run(folder):
    ran = folder.parent / "ran"
    (folder / "set.py").write_text(f"open({str(ran)!r}, 'w')\n")
    try:
        list(HubCorpus(path=str(folder)).documents())
    except DataError as error:
        assert str(folder) in str(error)
    assert not ran.exists()
