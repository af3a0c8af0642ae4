"""What a document is: a text, where it came from, and what is known about its parts.

Knows nothing but strings. Must not know where documents come from or how they become ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

DOMAIN = "domain"
TOKEN_CLASS = "token_class"


@dataclass(frozen=True, slots=True)
class Span:
    """The characters `start` (inclusive) to `end` (exclusive) of a text carry the label `value`."""

    start: int
    end: int
    value: str


# From the name of a label ("domain") to its spans. Where spans overlap the later one counts; what none covers is unlabelled.
Labels = dict[str, tuple[Span, ...]]


def no_labels(text: str) -> Labels:
    """What a text of which nothing is known is labelled with."""
    return {}


def label_whole(values: Mapping[str, str], text: str) -> Labels:
    """Every label covers the whole text."""
    return {name: (Span(0, len(text), value),) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus.

    The labels are worked out when they are asked for, because a run that finds its ids in the cache never asks.
    """

    text: str
    source: str
    """Where it came from, for messages: a file and a row, a module."""
    find_labels: Callable[[str], Labels] = no_labels
    """From the text to its labels; pure."""
    label_key: str = ""
    """Stands for `find_labels` in the cache key: the same text and the same key mean the same labels."""

    @classmethod
    def labelled(cls, text: str, source: str, values: Mapping[str, str]) -> Document:
        """A document with one value per label, for the whole text."""
        return cls(text, source, partial(label_whole, values), repr(sorted(values.items())))

    @property
    def labels(self) -> Labels:
        return self.find_labels(self.text)
