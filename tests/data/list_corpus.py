"""A corpus that is a list in memory, for tests of what comes after reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from moecli.data.corpora import Corpus
from moecli.data.documents import Document


class ListCorpus(Corpus):
    kind: Literal["list"] = "list"
    texts: list[str]
    labels: list[dict[str, str]] | None = None
    """One per text, or none at all."""

    def documents(self) -> Iterator[Document]:
        labels = self.labels or [{}] * len(self.texts)
        for number, (text, values) in enumerate(zip(self.texts, labels, strict=True)):
            yield Document.labelled(text, f"text {number}", values)

    def label_kinds(self) -> tuple[str, ...]:
        return tuple(sorted({kind for values in self.labels for kind in values}))

    def describe(self) -> str:
        return "corpus list"
