"""From a config to ids: what comes out, that it comes out again, and that nothing is done twice."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moecli.data import prepare as prepare_module
from moecli.data.config import DataConfig
from moecli.data.corpora import CORPORA
from moecli.data.prepare import prepare, prepare_text
from moecli.data.tokenizer_config import BPETokenizerConfig, ByteTokenizerConfig
from moecli.errors import DataError, MachineError

TOPICS = ["sea", "sky"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.jsonl"
    rows = [{"text": f"text number {number} é", "topic": TOPICS[number % 2]} for number in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def config(tmp_path, table):
    return DataConfig.model_validate(
        {
            "corpus": {"kind": "files", "paths": [str(table)], "label_column": "topic"},
            "tokenizer": {"kind": "bpe", "vocab_size": 270},
            "validation_fraction": 0.2,
            "cache_dir": str(tmp_path / "cache"),
        }
    )


def texts_of(split, tokenizer):
    """The documents of a split, read back from its ids."""
    ids = split.ids.tolist()
    assert ids[0] == ids[-1] == tokenizer.end_of_text_id
    texts, start = [], 1
    for place in range(1, len(ids)):
        if ids[place] == tokenizer.end_of_text_id:
            texts.append(tokenizer.decode(ids[start:place]))
            start = place + 1
    return texts


def never(*args, **kwargs):
    raise AssertionError("done again although it is in the cache")


def test_what_comes_out(config):
    data = prepare(config)
    expected = {f"text number {number} é": TOPICS[number % 2] for number in range(40)}
    train, validation = (texts_of(split, data.tokenizer) for split in (data.train, data.validation))
    assert sorted(train + validation) == sorted(expected)
    assert 0 < sum(map(len, validation)) <= 0.2 * sum(map(len, expected))
    for split, texts in ((data.train, train), (data.validation, validation)):
        assert split.num_documents == len(texts)
        assert split.num_bytes == sum(len(text.encode()) for text in texts)
        names = split.label_names["topic"]
        assert names == ("", "sea", "sky")
        of_documents = [names[number] for number, id_ in zip(split.labels["topic"], split.ids, strict=True) if id_ != 269]
        tokens = [len(data.tokenizer.encode(text)) for text in texts]
        assert of_documents == [expected[text] for text, count in zip(texts, tokens, strict=True) for _ in range(count)]
        assert set(split.labels["topic"][split.ids == data.tokenizer.end_of_text_id].tolist()) == {0}


def test_the_cache_is_used_and_mapped(config, monkeypatch, tmp_path):
    first = prepare(config)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    monkeypatch.setattr(prepare_module, "encode_documents", never)
    monkeypatch.setattr(BPETokenizerConfig, "build", never)
    second = prepare(config)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == files
    assert second.fingerprint == first.fingerprint
    assert second.tokenizer.content_hash == first.tokenizer.content_hash
    for split in (second.train, second.validation):
        for array in (split.ids, *split.labels.values()):
            assert isinstance(array, np.memmap)
            assert Path(array.filename) in files


def test_evaluation_with_the_tokenizer_of_a_run_finds_the_same_entry(config, monkeypatch):
    trained = prepare(config)
    monkeypatch.setattr(prepare_module, "encode_documents", never)
    monkeypatch.setattr(BPETokenizerConfig, "build", never)
    again = prepare(config, tokenizer=trained.tokenizer)
    assert again.tokenizer is trained.tokenizer
    assert again.fingerprint == trained.fingerprint


@pytest.mark.parametrize("kind", ["byte", "char"])
def test_another_tokenizer_is_another_entry(config, kind):
    other = DataConfig.model_validate(config.model_dump() | {"tokenizer": {"kind": kind}})
    first, second = prepare(config), prepare(other)
    assert first.fingerprint != second.fingerprint
    assert sorted(texts_of(second.train, second.tokenizer)) == sorted(texts_of(first.train, first.tokenizer))


def test_changed_text_labels_or_split_are_another_entry(config, table):
    fingerprints = {prepare(config).fingerprint}
    fingerprints.add(prepare(config.model_copy(update={"validation_fraction": 0.4})).fingerprint)
    fingerprints.add(prepare(config.model_copy(update={"validation_max_bytes": 40})).fingerprint)
    table.write_text(table.read_text().replace('"sea"', '"see"', 1))
    fingerprints.add(prepare(config).fingerprint)
    table.write_text(table.read_text().replace("text number 3 ", "text number three "))
    fingerprints.add(prepare(config).fingerprint)
    assert len(fingerprints) == 5


def test_what_does_not_change_the_ids_is_not_another_entry(config, table, tmp_path):
    moved = tmp_path / "moved.jsonl"
    moved.write_text(table.read_text() * 2)  # elsewhere, and everything twice
    corpus = config.corpus.model_copy(update={"paths": [str(moved)]})
    other = config.model_copy(update={"corpus": corpus, "seq_len": 7, "cache_dir": str(tmp_path / "other")})
    first, second = prepare(config), prepare(other)
    assert second.fingerprint == first.fingerprint
    assert second.train.ids.tolist() == first.train.ids.tolist()


def test_the_vocabulary_does_not_see_the_validation_text(tmp_path):
    texts = [f"text {number:03} " + chr(0x4E00 + number) for number in range(50)]  # each has a character of its own
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {"corpus": {"kind": "files", "paths": [str(path)]}, "tokenizer": {"kind": "char"}, "cache_dir": str(tmp_path / "cache")}
    data = prepare(DataConfig.model_validate(config))
    assert data.validation.num_documents > 0
    unknown = [text for text in texts if 0 in data.tokenizer.encode(text)]
    assert len(unknown) == data.validation.num_documents
    assert np.count_nonzero(data.train.ids == 0) == 0


@pytest.mark.parametrize("name", ["splits.json", "train.ids", "validation.label0", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_entry_is_built_again(config, tmp_path, name, damage):
    first = prepare(config)
    expected = first.train.ids.tolist(), first.validation.labels["topic"].tolist()
    (path,) = (tmp_path / "cache").rglob(name)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    before = sorted(path.name for path in (tmp_path / "cache").iterdir())
    data = prepare(config)
    assert (data.train.ids.tolist(), data.validation.labels["topic"].tolist()) == expected
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == before
    assert path.exists()


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"train": {}}', "\ud800"])
def test_a_description_that_makes_no_sense_is_a_damaged_entry(config, tmp_path, content):
    expected = prepare(config).train.ids.tolist()
    (path,) = (tmp_path / "cache").rglob("splits.json")
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert prepare(config).train.ids.tolist() == expected


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_full_disk(config, monkeypatch, tmp_path, function):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(MachineError, match="the disk is full") as caught:
        prepare(config)
    assert str(tmp_path / "cache") in str(caught.value)
    assert "data.cache_dir" in caught.value.next_step
    assert list((tmp_path / "cache").iterdir()) == []


def test_interrupted_nothing_is_left_behind(config, monkeypatch, tmp_path):
    def interrupt(documents, tokenizer, tables):
        next(iter(documents))
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "encode_documents", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    (entry,) = (tmp_path / "cache").iterdir()
    assert entry.name.startswith("tokenizer-")


def test_a_vocabulary_beyond_the_text(config, tmp_path):
    with pytest.raises(DataError, match=r"gives a vocabulary of \d+ at most") as caught:
        prepare(config.model_copy(update={"tokenizer": BPETokenizerConfig(vocab_size=5000)}))
    assert "data.tokenizer.vocab_size" in caught.value.next_step
    assert list((tmp_path / "cache").iterdir()) == []


def test_one_long_text_file_is_split(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"paragraph {number}\n\n" for number in range(2000)))
    corpus = {"kind": "files", "paths": [str(path)]}
    config = {"corpus": corpus, "tokenizer": {"kind": "byte"}, "validation_fraction": 0.2, "cache_dir": str(tmp_path / "cache")}
    data = prepare(DataConfig.model_validate(config))
    assert data.train.num_bytes + data.validation.num_bytes == path.stat().st_size
    assert data.train.labels == {}


def test_a_text_to_evaluate_is_one_split_with_everything(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("short é")
    tokenizer = ByteTokenizerConfig().build(iter([]))
    corpus = CORPORA["files"].model_validate({"paths": [str(path), str(tmp_path / "copy.txt")]})
    (tmp_path / "copy.txt").write_text("short é")
    split = prepare_text(corpus, tokenizer, str(tmp_path / "cache"))
    assert texts_of(split, tokenizer) == ["short é", "short é"]
    assert (split.name, split.num_bytes, split.num_documents) == ("text", 16, 2)
    assert isinstance(split.ids, np.memmap)


def test_without_text_to_evaluate(tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text("")
    corpus = CORPORA["files"].model_validate({"paths": [str(path)]})
    with pytest.raises(DataError, match="there is no text in it") as caught:
        prepare_text(corpus, ByteTokenizerConfig().build(iter([])), str(tmp_path / "cache"))
    assert str(path) in str(caught.value)


def test_every_process_gives_the_same(tmp_path):
    script = (
        "import sys; from moecli.data.config import DataConfig; from moecli.data.prepare import prepare\n"
        "config = {'corpus': {'max_bytes': 300_000}, 'tokenizer': {'vocab_size': 300}, 'cache_dir': sys.argv[1]}\n"
        "data = prepare(DataConfig.model_validate(config))\n"
        "print(data.fingerprint, data.train.ids.tobytes().hex(), data.validation.labels['token_class'].tobytes().hex())\n"
        "assert not {'torch', 'pandas', 'datasets'} & set(sys.modules)"
    )
    outputs = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": "true" if seed == "1" else "false"}
        command = [sys.executable, "-c", script, str(tmp_path / seed)]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(outputs) == 1
    assert len(outputs.pop()) > 100_000
