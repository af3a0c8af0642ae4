"""A text that is written token by token, until it is at its end.

Knows a tokenizer and stop texts. Must not know models, nor other texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from moecli.data.tokenizer import Tokenizer
from moecli.workflows.stop_text import StopText

Finish = Literal["stop", "end-of-text", "length", "interrupted"]


class GrowingText:
    """One text as its tokens come in."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int], stop: Sequence[str]) -> None:
        self.prompt_ids = prompt_ids
        self.text = ""
        self.num_tokens = 0
        self.finish: Finish | None = None
        """None while it may grow."""
        self._end_of_text_id = tokenizer.end_of_text_id
        self._stop = StopText(stop)
        self._decoder = tokenizer.piece_decoder()
        self._decoder.go_on_after(prompt_ids)

    def push(self, number: int) -> str:
        """Takes the next token in; returns what the text has grown by."""
        self.num_tokens += 1
        if number == self._end_of_text_id:
            return self.end("end-of-text")
        grown = self._stop.push(self._decoder.push(number))
        if self._stop.is_reached:
            self.finish = "stop"
        self.text += grown
        return grown

    def end(self, finish: Finish) -> str:
        """Nothing more comes; returns what was held back, half a character as U+FFFD."""
        self.finish = finish
        rest = self._stop.push(self._decoder.rest()) + self._stop.rest()
        self.text += rest
        return rest
