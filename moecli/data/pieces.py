"""The text of tokens, one after the other: a token may be a part of a character, and what it writes may depend on those before it.

Knows how a decoder behaves. Must not know which tokenizer it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What a decoder writes for bytes that are no character yet, and the most bytes that make one.
REPLACEMENT = "\ufffd"
MOST_TOKENS_OF_A_CHARACTER = 4


class PieceDecoder:
    """Gives the text of each token as it comes; together they are the text. Of a character in several tokens the last one gives the whole.

    Args:
        decode: the text of a list of ids.
        name_of: how a token is called that stands for no text, such as a special one; None for every other.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], name_of: Callable[[int], str | None]) -> None:
        self._decode = decode
        self._name_of = name_of
        self._given: list[int] = []  # the last tokens whose text is known: what a decoder makes of the next may depend on them
        self._waiting: list[int] = []

    def go_on_after(self, ids: Sequence[int]) -> None:
        """What comes is decoded as it reads after these tokens, which end with a whole character."""
        self._given, self._waiting = list(ids[-MOST_TOKENS_OF_A_CHARACTER:]), []

    def push(self, number: int) -> str:
        """The text that this token completes; empty where it is a part of a character that others have to complete."""
        name = self._name_of(number)
        if name is not None:
            self._given, self._waiting = [], []
            return name
        self._waiting.append(number)
        text = self._decode([*self._given, *self._waiting])
        if text.endswith(REPLACEMENT) and len(self._waiting) < MOST_TOKENS_OF_A_CHARACTER:
            return ""
        piece = text[len(self._decode(self._given)) :]
        self._given, self._waiting = self._waiting, []
        return piece

    def rest(self) -> str:
        """What the tokens write that still wait for others, when no more come: bytes that are no character as U+FFFD."""
        text = self._decode([*self._given, *self._waiting])[len(self._decode(self._given)) :]
        self._given, self._waiting = [], []
        return text
