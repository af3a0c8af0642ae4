"""A token has the label of its first character that is not white space."""

from __future__ import annotations

import numpy as np

from moecli.data import encode
from moecli.data.documents import Document, Span
from moecli.data.encode import encode_documents, label_numbers, label_places
from moecli.data.python_labels import label_python
from moecli.data.split import SplitCorpus
from moecli.data.token_split import LabelTable
from moecli.data.tokenizer_config import BPETokenizerConfig, ByteTokenizerConfig
from tests.data.list_corpus import ListCorpus

BYTE = ByteTokenizerConfig().build(iter([]))


def test_places_by_hand():
    #       012345678
    text = "a the\n  b"
    offsets = [(0, 1), (1, 5), (5, 8), (8, 9)]  # "a", " the", "\n  ", "b"
    assert label_places(text, offsets).tolist() == [0, 2, 5, 8]


def test_places_at_the_end_of_a_text():
    assert label_places("a  ", [(0, 1), (1, 3), (3, 3)]).tolist() == [0, 1, 2]  # a token of no characters takes the last one
    assert label_places("a", []).tolist() == []


def test_later_spans_lie_over_earlier_ones():
    table = LabelTable("domain")
    numbers = label_numbers([Span(0, 4, "code"), Span(1, 3, "comment")], 5, table)
    assert numbers.tolist() == [1, 2, 2, 1, 0]
    assert table.numbers == {"": 0, "code": 1, "comment": 2}


def test_labels_of_python_by_hand():
    document = Document("x = é # c\n", "here", label_python)
    corpus = SplitCorpus.whole(ListCorpus(texts=[document.text]))
    tables = {"domain": LabelTable("domain"), "token_class": LabelTable("token_class"), "none": LabelTable("none")}
    (encoded,) = encode_documents([(document, corpus.sizes[0])], BYTE, tables)
    names = {kind: list(table.numbers) for kind, table in tables.items()}
    values = {kind: [names[kind][number] for number in numbers] for kind, numbers in encoded.labels.items()}
    assert encoded.ids == list("x = é # c\n".encode())
    # Bytes:                 x      " "    =          " "    é: two bytes    " "   "# c": three bytes    "\n"
    assert values["domain"] == ["code"] * 7 + ["comment"] * 3 + ["code"]
    assert values["token_class"] == ["name", "", "operator", "", "name", "name", "", *["comment"] * 3, "indentation"]
    assert values["none"] == [""] * 11


def test_a_token_with_a_leading_space_has_the_label_of_its_word():
    tokenizer = BPETokenizerConfig(vocab_size=260).build(iter([" it is it is"] * 5))
    document = Document("a it", "here", lambda text: {"k": (Span(0, 1, "one"), Span(2, 4, "two"))})
    size = SplitCorpus.whole(ListCorpus(texts=[document.text])).sizes[0]
    table = LabelTable("k")
    (encoded,) = encode_documents([(document, size)], tokenizer, {"k": table})
    assert len(encoded.ids) == 2
    assert encoded.labels["k"].tolist() == [1, 2]


def test_groups_do_not_change_the_result(monkeypatch):
    texts = [f"text {number} " * 10 for number in range(20)]
    labels = [{"k": str(number % 3)} for number in range(20)]
    corpus = SplitCorpus.whole(ListCorpus(texts=texts, labels=labels))

    def encoded():
        table = LabelTable("k")
        return [(item.ids, item.labels["k"].tolist()) for item in encode_documents(corpus.documents(), BYTE, {"k": table})]

    expected = encoded()
    monkeypatch.setattr(encode, "CHARACTERS_AT_ONCE", 50)
    assert encoded() == expected
    assert len(expected) == 20


def test_without_labels_no_offsets_are_worked_out(monkeypatch):
    monkeypatch.setattr(type(BYTE), "encode_batch_with_offsets", None)
    corpus = SplitCorpus.whole(ListCorpus(texts=["ab", "c"]))
    assert [(item.ids, item.labels) for item in encode_documents(corpus.documents(), BYTE, {})] == [([97, 98], {}), ([99], {})]


def test_label_numbers_are_as_wide_as_they_are_stored():
    assert label_numbers([], 2, LabelTable("k")).dtype == np.uint16
