"""Documents to ids, and the labels of characters to the labels of tokens.

Knows tokenizers and documents. Must not know which document goes into which split, files or torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moecli.data.documents import Document, Span
from moecli.data.split import DocumentSize
from moecli.data.token_split import LABEL_TYPE, LabelTable
from moecli.data.tokenizer import Tokenizer

# Enough for all cores, and little beside the rest of a run: the library needs some 200 bytes per token while it encodes.
CHARACTERS_AT_ONCE = 500_000
LAST_SPACE = ord(" ")


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """The tokens of a document, without an end of text."""

    size: DocumentSize
    ids: list[int]
    labels: dict[str, np.ndarray]
    """From each label in the table to one number per token; 0 is unlabelled."""


def encode_documents(
    documents: Iterable[tuple[Document, DocumentSize]], tokenizer: Tokenizer, tables: Mapping[str, LabelTable]
) -> Iterator[EncodedDocument]:
    """Encodes document by document; new label values are entered into `tables`."""
    for group in _groups(documents):
        texts = [document.text for document, _ in group]
        if not tables:
            for (_, size), ids in zip(group, tokenizer.encode_batch(texts), strict=True):
                yield EncodedDocument(size, ids, {})
            continue
        for (document, size), encoding in zip(group, tokenizer.encode_batch_with_offsets(texts), strict=True):
            places = label_places(document.text, encoding.offsets)
            spans = document.labels
            labels = {kind: label_numbers(spans.get(kind, ()), len(document.text), table)[places] for kind, table in tables.items()}
            yield EncodedDocument(size, encoding.ids, labels)


def label_places(text: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """The character that gives each token its label: its first that is not white space, or simply its first where all are."""
    starts, ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    is_space = np.frombuffer(text.encode("utf-32-le"), dtype="<u4") <= LAST_SPACE
    next_solid = np.where(is_space, len(text), np.arange(len(text)))
    next_solid = np.minimum.accumulate(next_solid[::-1])[::-1]
    starts = np.minimum(starts, len(text) - 1)
    solid = next_solid[starts]
    return np.where(solid < ends, solid, starts)


def label_numbers(spans: Iterable[Span], num_characters: int, table: LabelTable) -> np.ndarray:
    """The number of the label of each character."""
    numbers = np.zeros(num_characters, dtype=LABEL_TYPE)
    for span in spans:
        numbers[span.start : span.end] = table.number(span.value)
    return numbers


def _groups(documents: Iterable[tuple[Document, DocumentSize]]) -> Iterator[list[tuple[Document, DocumentSize]]]:
    group: list[tuple[Document, DocumentSize]] = []
    characters = 0
    for document, size in documents:
        group.append((document, size))
        characters += size.characters
        if characters >= CHARACTERS_AT_ONCE:
            yield group
            group, characters = [], 0
    if group:
        yield group
