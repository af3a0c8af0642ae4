"""The standard library as a corpus: the same text wherever Python lives."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from itertools import count, pairwise

import pytest
from pydantic import ValidationError

from moecli.data.corpora import StdlibCorpus, stdlib
from moecli.data.corpora.stdlib import LEFT_OUT, MAX_DOCUMENT_BYTES
from moecli.data.python_sources import LANDMARKS, find_source, find_sources, library_roots
from moecli.errors import DataError


def read(max_bytes=1_000_000):
    return [(document.source, document.text) for document in StdlibCorpus(max_bytes=max_bytes).documents()]


@pytest.fixture(scope="module")
def library():
    """(path inside the library, source) of every module, found with the real Python."""
    roots = library_roots(sys.path)
    names = dict(find_sources(sorted(sys.stdlib_module_names), roots, LEFT_OUT))
    names["pydoc_data"] = "# reference\n"
    names["pydoc_data.topics"] = find_source("pydoc_data.topics", roots)
    packages = {name.rpartition(".")[0] for name in names} - {""}
    names |= {package: "" for package in packages if package not in names}
    return [(name.replace(".", "/") + ("/__init__.py" if name in packages else ".py"), text) for name, text in names.items()]


def test_documents_and_their_labels():
    documents = list(StdlibCorpus(max_bytes=1_000_000).documents())
    size = sum(len(document.text.encode()) for document in documents)
    assert 1_000_000 - MAX_DOCUMENT_BYTES < size <= 1_000_000
    domains = {span.value for document in documents for span in document.labels["domain"]}
    assert domains == {"code", "comment", "docstring", "prose"}
    classes = {span.value for document in documents for span in document.labels["token_class"]}
    assert classes == {"keyword", "name", "operator", "string", "comment", "number", "indentation", "text"}


def test_prose_is_text_as_a_whole():
    documents = StdlibCorpus(max_bytes=1_000_000).documents()
    topic = next(document for document in documents if document.source.startswith("topic "))
    assert [(span.start, span.end, span.value) for span in topic.labels["domain"]] == [(0, len(topic.text), "prose")]
    assert [span.value for span in topic.labels["token_class"]] == ["text"]


def test_optional_parts_are_left_out():
    documents = read(8_000_000)
    assert 6_000_000 < sum(len(text) for _, text in documents) < 8_000_000  # all there is
    assert max(len(text.encode()) for _, text in documents) <= MAX_DOCUMENT_BYTES
    sources = [source for source, _ in documents]
    assert any(source.startswith("json.") for source in sources)
    assert any(source.startswith("asyncio.") for source in sources)
    parts = {part for source in sources for part in source.split(".")}
    assert parts & LEFT_OUT == set()
    assert not any("sysconfigdata" in source or "site-packages" in source for source in sources)


def test_less_is_a_part_of_more():
    less, more = read(300_000), read(1_000_000)
    assert more[: len(less)] == less
    assert len(more) > len(less)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_text_does_not_depend_on_where_python_lives(tmp_path, monkeypatch, library, kind):
    expected = read()
    home = tmp_path / "test" / "site-packages" / "python"
    if kind == "folder":
        for name, text in library:
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
    else:
        home = tmp_path / "python.zip"
        with zipfile.ZipFile(home, "w") as archive:
            for name, text in library:
                archive.writestr(name, text)
    monkeypatch.setattr(sys, "path", [str(home)])
    assert read() == expected


def test_without_reference_topics_there_is_just_no_prose(tmp_path, monkeypatch, library):
    home = tmp_path / "python.zip"
    with zipfile.ZipFile(home, "w") as archive:
        for name, text in library:
            if not name.startswith("pydoc_data"):
                archive.writestr(name, text)
    monkeypatch.setattr(sys, "path", [str(home)])
    documents = read()
    assert documents
    assert not any(source.startswith("topic") for source, _ in documents)


def test_a_module_of_the_users_does_not_shadow_one_of_pythons(tmp_path, monkeypatch):
    expected = read()
    for name in ("random", "token", "types", *(source.split(".")[0] for source, _ in expected)):
        (tmp_path / f"{name}.py").write_text("# mine\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert read() == expected


def test_what_is_not_python_is_skipped(tmp_path, monkeypatch, library):
    expected = [source for source, _ in read()]
    name = next(source for source in expected if not source.startswith("topic"))
    # Of a hash so small that it would be among the first documents if it were taken.
    old = next(text for number in count() if hashlib.sha256((text := f"print {number} 'old'\n").encode()).hexdigest() < "001")
    home = tmp_path / "python.zip"
    with zipfile.ZipFile(home, "w") as archive:
        for path, text in library:
            archive.writestr(path, old if path.startswith(name.replace(".", "/")) else text)
    monkeypatch.setattr(sys, "path", [str(home)])
    found = [source for source, _ in read()]
    assert name not in found
    # In its place more fits at the end.
    assert [source for source in found if source in expected] == [source for source in expected if source != name]


@pytest.mark.parametrize("has_landmarks", [True, False])
def test_too_little_text_says_how_much_where_and_what_to_do(tmp_path, monkeypatch, has_landmarks):
    if has_landmarks:
        for name in LANDMARKS:
            (tmp_path / f"{name}.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    # The four files have the same 6 bytes; each is a document.
    assert f"found only {24 if has_landmarks else 0} bytes" in message
    assert (str(tmp_path) if has_landmarks else "no folder of sys.path") in message
    assert "install" in caught.value.next_step
    assert "data.corpus.kind files" in caught.value.next_step


def test_max_bytes_has_a_floor():
    with pytest.raises(ValidationError, match="greater than or equal to 200000"):
        StdlibCorpus(max_bytes=199_999)


def test_documents_come_in_an_order_of_their_content():
    digests = [hashlib.sha256(text.encode()).digest() for _, text in read()]
    assert all(first < second for first, second in pairwise(digests))


def test_labels_are_not_worked_out_while_reading(monkeypatch):
    def refuse(text):
        raise AssertionError("labels were asked for")

    monkeypatch.setattr(stdlib, "label_python", refuse)
    assert len(read()) > 10
