"""What every corpus is: a config that can be read.

Knows documents. Must not know tokenizers, splits or the cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from moecli.config import KindConfig
from moecli.data.documents import Document


class Corpus(KindConfig, ABC):
    """A source of documents, described by its config."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents, in an order of their own that is the same at each call. Read more than once rather than held in memory.

        Raises:
            DataError: something can't be read, or is not text.
        """

    @abstractmethod
    def label_kinds(self) -> tuple[str, ...]:
        """The names of the labels that documents of this corpus may carry."""

    @abstractmethod
    def describe(self) -> str:
        """What the corpus reads, in a few words, for messages."""
