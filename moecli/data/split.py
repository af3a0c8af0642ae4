"""Which documents of a corpus go into which split.

Knows documents by their content hash and size. Must not know tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from moecli.data.corpora import Corpus
from moecli.data.documents import Document
from moecli.errors import DataError

TRAIN, VALIDATION, TEXT = "train", "validation", "text"


@dataclass(frozen=True, slots=True)
class DocumentSize:
    """What the split needs to know of a document."""

    digest: bytes
    """SHA-256 of the text."""
    characters: int
    num_bytes: int
    label_key: str


def read_documents(corpus: Corpus) -> Iterator[tuple[Document, DocumentSize]]:
    """The documents that have any text, in the order of the corpus.

    Raises:
        DataError: a document can't be written as UTF-8, or none has any text.
    """
    found = False
    for document in corpus.documents():
        if not document.text:
            continue
        found = True
        try:
            encoded = document.text.encode()
        except UnicodeEncodeError as error:
            what = f"character {error.start} is half of a surrogate pair and can't be written as UTF-8"
            raise DataError(what, where=document.source, next_step="put the text right, or leave it out") from error
        size = DocumentSize(hashlib.sha256(encoded).digest(), len(document.text), len(encoded), document.label_key)
        yield document, size
    if not found:
        raise DataError("there is no text in it", where=corpus.describe(), next_step="check data.corpus, or use another corpus")


def choose_validation(sizes: Collection[DocumentSize], fraction: float, max_bytes: int | None, where: str) -> frozenset[bytes]:
    """The digests of the documents to hold out.

    Documents are taken in the order of their hashes, each that still fits: up to `fraction` of the characters and `max_bytes`. So the
    choice depends on the texts alone, not on their order or on a seed. Where nothing fits, the smallest document is held out.

    Args:
        sizes: distinct documents.
        fraction: share of the characters, above 0 and below 1.
        max_bytes: UTF-8 bytes at most; None for no limit.
        where: the corpus, for the message.

    Raises:
        DataError: fewer than two documents, so that one split would be empty.
    """
    if len(sizes) < 2:
        raise DataError(
            "only one document with distinct text, but training and validation need one each",
            where=where,
            next_step="add text; a plain text file becomes several documents from about 8,000 characters on",
        )
    characters_left = fraction * sum(size.characters for size in sizes)
    bytes_left = float("inf") if max_bytes is None else max_bytes
    chosen = set()
    for size in sorted(sizes, key=lambda size: size.digest):
        if size.characters <= characters_left and size.num_bytes <= bytes_left:
            chosen.add(size.digest)
            characters_left -= size.characters
            bytes_left -= size.num_bytes
    return frozenset(chosen) or frozenset({min(sizes, key=lambda size: (size.characters, size.digest)).digest})


@dataclass(frozen=True)
class SplitCorpus:
    """A corpus that was read through once, and the split of each of its documents."""

    corpus: Corpus
    sizes: list[DocumentSize]
    """In the order of the corpus."""
    split_of: dict[bytes, str]
    """From the digest of a document to the name of its split."""
    drop_repeated: bool
    """Whether a text that came before is left out."""

    @classmethod
    def hold_out(cls, corpus: Corpus, fraction: float, max_bytes: int | None) -> SplitCorpus:
        """Splits "train" and "validation". A repeated text is left out: a copy in the other split would be a leak."""
        first: dict[bytes, DocumentSize] = {}
        for _, size in read_documents(corpus):
            first.setdefault(size.digest, size)
        sizes = list(first.values())
        held_out = choose_validation(sizes, fraction, max_bytes, corpus.describe())
        split_of = {size.digest: VALIDATION if size.digest in held_out else TRAIN for size in sizes}
        return cls(corpus, sizes, split_of, drop_repeated=True)

    @classmethod
    def whole(cls, corpus: Corpus) -> SplitCorpus:
        """One split "text" of all documents, repeated ones too."""
        sizes = [size for _, size in read_documents(corpus)]
        return cls(corpus, sizes, {size.digest: TEXT for size in sizes}, drop_repeated=False)

    @property
    def names(self) -> list[str]:
        """The names of the splits."""
        return sorted(set(self.split_of.values()))

    def documents(self) -> Iterator[tuple[Document, DocumentSize]]:
        """Reads the corpus again.

        Raises:
            DataError: a text is not one of those that were there the first time.
        """
        seen: set[bytes] = set()
        for document, size in read_documents(self.corpus):
            if size.digest not in self.split_of:
                raise DataError("the text changed while it was read", where=document.source, next_step="start again")
            if size.digest in seen and self.drop_repeated:
                continue
            seen.add(size.digest)
            yield document, size
