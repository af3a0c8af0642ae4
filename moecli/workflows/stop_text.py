"""Where a growing text ends: at the first stop text in it, which is cut off.

Knows texts. Must not know tokens.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes a text on piece by piece; the end of it that may be the beginning of a stop text is held back until more has come.

    The stop text that is complete first counts, however the text is cut into pieces; of several that end together, the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty text is everywhere"
        self._stops = stops
        self._held = ""
        self.is_reached = False

    def push(self, piece: str) -> str:
        """What can be passed on now."""
        text = self._held + piece
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops if stop in text]
        if found:
            self.is_reached = True
            self._held = ""
            return text[: min(found)[1]]
        num_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        passed = text[: len(text) - num_held]
        self._held = text[len(text) - num_held :]
        return passed

    def rest(self) -> str:
        """What was held back, when no more comes."""
        return self._held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of the text that the stop text begins with."""
    return next((length for length in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:length])), 0)
