"""JSON files that were written before and are read again: whatever is in them, an error names the file and the key.

Knows JSON and files. Must not know what the values mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecli.config import LARGEST
from moecli.data.small_file import read_small
from moecli.errors import RunError


@dataclass(frozen=True, slots=True)
class JsonObject:
    """What a JSON file holds, and what to do where that is wrong."""

    path: Path
    content: dict[str, Any]
    next_step: str

    def value(self, key: str) -> Any:
        """Raises RunError where there is no such key."""
        if key not in self.content:
            raise self.wrong(f"there is no {key} in it")
        return self.content[key]

    def whole_number(self, key: str, *, least: int = 0, default: int | None = None) -> int:
        """Raises RunError where the value is no whole number from `least` to LARGEST: true, 8.0 and "8" are none. `default` stands for a
        key that older versions don't write."""
        value = self.value(key) if default is None else self.content.get(key, default)
        if type(value) is not int or not least <= value <= LARGEST:
            raise self.wrong(f"{key} is {_shown(value)}", allowed=f"a whole number from {least} to {LARGEST:,}")
        return value

    def wrong(self, what: str, allowed: str = "") -> RunError:
        return RunError(f"damaged: {what}", where=str(self.path), allowed=allowed, next_step=self.next_step)


def read_object(path: Path, next_step: str) -> JsonObject:
    """The object that a JSON file holds.

    Raises:
        RunError: there is no such file, it can't be read, or holds something else.
    """
    try:
        content = json.loads(read_small(path))
    except FileNotFoundError as error:
        raise RunError("there is no such file", where=str(path), next_step=next_step) from error
    except OSError as error:
        raise RunError(f"can't be read: {error.strerror}", where=str(path), next_step=next_step) from error
    except RecursionError as error:
        raise RunError("damaged: nested too deep", where=str(path), next_step=next_step) from error
    except ValueError as error:  # of the text, or of its encoding
        raise RunError(f"damaged: {error}", where=str(path), next_step=next_step) from error
    if not isinstance(content, dict):
        raise RunError(f"damaged: it holds {_shown(content)}", where=str(path), allowed="a mapping in braces", next_step=next_step)
    return JsonObject(path, content, next_step)


def _shown(value: Any) -> str:
    """The beginning of a value as JSON has it."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
