"""One thing that is wrong with a recipe: at which key, written where, and what it is.

Knows how key paths and values are shown to a person. Must not know YAML, pydantic or any schema.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moecli.errors import RecipeError

KeyPath = tuple[str | int, ...]

NEXT_STEP = "`moecli recipes show quickstart` shows a complete recipe"

_MOST_SHOWN = 30  # problems
_LONGEST_VALUE = 60  # characters


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Where a value was written. Places sort as a reader meets them: the file from the top, then the overrides."""

    rank: tuple[int, int]
    """(0, line) in the file, (1, index) for an override"""
    text: str
    """`my.yaml:12` or `--set model.d_model=abc`"""

    @classmethod
    def in_file(cls, source: str, line: int) -> Place:
        return cls((0, line), f"{source}:{line}")

    @classmethod
    def of_override(cls, index: int, override: str) -> Place:
        return cls((1, index), f"--set {_shortened(escape(override))}")

    @property
    def is_override(self) -> bool:
        return self.rank[0] == 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of the report."""

    place: Place
    path: KeyPath
    what: str
    value: str = ""
    """The value that is wrong, as `show_value` writes it; empty where there is none to show."""

    def __str__(self) -> str:
        key = show_path(self.path) + (f" = {self.value}" if self.value else "")
        return ": ".join(part for part in (self.place.text, key, self.what) if part)


class InvalidRecipe(RecipeError):
    """Every problem of one recipe, in the order in which a reader meets them."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        assert problems
        self.problems = tuple(sorted(problems, key=lambda problem: problem.place))
        lines = [str(problem) for problem in self.problems[:_MOST_SHOWN]]
        if len(self.problems) > _MOST_SHOWN:
            lines.append(f"... and {len(self.problems) - _MOST_SHOWN} more")
        if len(lines) > 1:
            lines.insert(0, f"{source}: {len(self.problems)} problems")
        super().__init__("\n".join(lines), next_step=NEXT_STEP)


def show_path(path: KeyPath) -> str:
    """`model.ffn.num_experts`, `data.files[2]`, `labels."a b"`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += "." * bool(text) + (key if re.fullmatch(r"[\w-]{1,60}", key) else show_value(key))
    return text


def show_value(value: Any) -> str:
    """The value as it could stand in a recipe, on one line, shortened, with every unprintable character escaped."""
    return _shortened(_inline(value))


def escape(text: str) -> str:
    """The text with every unprintable character escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 4] + " ..."


def _inline(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf"
        case str():
            quoted = value[:_LONGEST_VALUE].replace("\\", r"\\").replace('"', r"\"")
            return f'"{escape(quoted)}"'
        case dict():
            return "{" + ", ".join(f"{escape(key)}: {_inline(item)}" for key, item in list(value.items())[:_LONGEST_VALUE]) + "}"
        case list():
            return "[" + ", ".join(_inline(item) for item in value[:_LONGEST_VALUE]) + "]"
        case _:
            return str(value)
