"""The split: by document, by content, without leaks, the same whatever the order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.data.split import DocumentSize, SplitCorpus, choose_validation, read_documents
from moecli.errors import DataError
from tests.data.list_corpus import ListCorpus


def size(name, characters, num_bytes=0):
    return DocumentSize(name.encode(), characters, num_bytes or characters, "")


def test_validation_by_hand():
    sizes = [size("d", 10), size("c", 50), size("b", 10), size("a", 30)]
    # 100 characters. 0.4: a (30) in the order of the digests, then b (10), and nothing is left.
    assert choose_validation(sizes, 0.4, None, "") == {b"a", b"b"}
    # 0.25: a and c don't fit, b and d do.
    assert choose_validation(sizes, 0.25, None, "") == {b"b", b"d"}
    # Not more than 15 bytes: b, and then not d.
    assert choose_validation(sizes, 0.4, 15, "") == {b"b"}


def test_bytes_are_not_characters():
    assert choose_validation([size("a", 5, 15), size("b", 5, 5), size("c", 90)], 0.2, 10, "") == {b"b"}


def test_the_smallest_document_is_held_out_where_nothing_fits():
    assert choose_validation([size("a", 50), size("b", 40), size("c", 60)], 0.01, None, "") == {b"b"}
    assert choose_validation([size("a", 50), size("b", 40), size("c", 60)], 0.5, 1, "") == {b"b"}


def test_sizes_of_documents():
    (_, first), (_, second) = read_documents(ListCorpus(texts=["", "é", "", "ab"]))
    assert (first.characters, first.num_bytes) == (1, 2)
    assert (second.characters, second.num_bytes) == (2, 2)


@settings(deadline=None)
@given(texts=st.lists(st.text(alphabet="abc", min_size=1), min_size=2, unique=True), fraction=st.floats(0.01, 0.99), data=st.data())
def test_the_split_depends_on_the_texts_alone(texts, fraction, data):
    def held_out(texts):
        corpus = SplitCorpus.hold_out(ListCorpus(texts=texts), fraction, None)
        split = {document.text: corpus.split_of[size.digest] for document, size in corpus.documents()}
        return {text for text, name in split.items() if name == "validation"}

    validation = held_out(texts)
    assert 0 < len(validation) < len(texts)
    if len(validation) > 1:
        assert sum(map(len, validation)) <= fraction * sum(map(len, texts))
    copies = data.draw(st.lists(st.sampled_from(texts)))
    assert held_out(data.draw(st.permutations(texts + copies))) == validation


def test_repeated_texts_are_in_one_split_once():
    corpus = SplitCorpus.hold_out(ListCorpus(texts=["a", "b", "a", "", "b", "c"]), 0.5, None)
    assert [document.text for document, _ in corpus.documents()] == ["a", "b", "c"]
    assert len(corpus.sizes) == 3


def test_of_repeated_texts_the_first_one_gives_the_labels():
    labels = [{"k": "first"}, {"k": "second"}, {"k": "other"}]
    corpus = SplitCorpus.hold_out(ListCorpus(texts=["a", "a", "b"], labels=labels), 0.5, None)
    documents = [(document.labels["k"][0].value, size.label_key) for document, size in corpus.documents()]
    assert [value for value, _ in documents] == ["first", "other"]
    assert [key for _, key in documents] == [size.label_key for size in corpus.sizes]


def test_a_whole_corpus_keeps_repeated_texts():
    corpus = SplitCorpus.whole(ListCorpus(texts=["a", "", "a"]))
    assert [document.text for document, _ in corpus.documents()] == ["a", "a"]
    assert corpus.names == ["text"]


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
@pytest.mark.parametrize("read", [SplitCorpus.whole, lambda corpus: SplitCorpus.hold_out(corpus, 0.5, None)])
def test_an_empty_corpus(texts, read):
    with pytest.raises(DataError, match="there is no text in it") as caught:
        read(ListCorpus(texts=texts))
    assert "corpus list" in str(caught.value)
    assert "data.corpus" in caught.value.next_step


def test_one_document_can_not_be_split():
    with pytest.raises(DataError, match="only one document") as caught:
        SplitCorpus.hold_out(ListCorpus(texts=["a", "a"]), 0.5, None)
    assert "corpus list" in str(caught.value)
    assert "add text" in caught.value.next_step


def test_text_that_can_not_be_written_as_utf8():
    with pytest.raises(DataError, match="character 1 is half of a surrogate pair") as caught:
        SplitCorpus.whole(ListCorpus(texts=["fine", "a\ud800"]))
    assert "text 1" in str(caught.value)


def test_text_that_changes_while_it_is_read():
    texts = ["a", "b"]
    corpus = SplitCorpus.whole(ListCorpus.model_construct(texts=texts, labels=[]))
    texts[1] = "c"
    with pytest.raises(DataError, match="changed while it was read") as caught:
        list(corpus.documents())
    assert "text 1" in str(caught.value)
