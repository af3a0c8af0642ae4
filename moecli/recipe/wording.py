"""Plain words for what a schema allows in a place: "a whole number of at least 1", "one of mlp, sparse, or null".

Knows shapes and their limits. Must not know key paths, files or pydantic's errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from moecli.config import LARGEST
from moecli.recipe.problem import show_value
from moecli.recipe.shape import Shape


def describe(shape: Shape, value: Any = None) -> str:
    """What is allowed here, as it reads after "must be". The value decides only how much of it is worth saying."""
    text = either([_describe(member, value) for member in shape.members] or [_describe(shape, value)])
    return f"{text}, or null" if shape.nullable else text


def hint(shape: Shape, value: Any) -> str:
    """What the writer probably meant, as it reads after "must be ..."; empty where there is no telling."""
    choices = [choice for member in (shape.members or [shape]) for choice in _choices(member)]
    if isinstance(value, str) and (near := nearest(value, choices)):
        return f"; did you mean {near}?"
    wants_int = any(member.type is int for member in (shape.members or [shape]))
    if wants_int and isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST:
        return f"; write {int(value)}"
    return ""


def nearest(name: str, names: Iterable[str]) -> str:
    """The known name that looks most like this one; empty where none does."""
    by_plain = {_plain(known): known for known in names}
    near = get_close_matches(_plain(name), by_plain, n=1, cutoff=0.6)
    return by_plain[near[0]] if near else ""


def either(words: list[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _describe(shape: Shape, value: Any) -> str:
    if shape.config(value) or shape.one_of:
        return "a mapping of keys to values"
    arguments = get_args(shape.type)
    if get_origin(shape.type) is Literal:
        bare = [choice if isinstance(choice, str) else show_value(choice) for choice in arguments]
        return f"one of {', '.join(bare)}" if len(bare) > 1 else show_value(arguments[0])
    if get_origin(shape.type) in (list, tuple):
        return f"a list{_length(shape, 'item')}, each item {describe(Shape.of(arguments[0]))}"
    if get_origin(shape.type) is dict:
        return f"a mapping{_length(shape, 'key')}, each value {describe(Shape.of(arguments[1]))}"
    if shape.type is NoneType:
        return "null"
    if shape.type is bool:
        return "true or false"
    if shape.type is str:
        pattern = _limit(shape, "pattern")
        return f"text{_length(shape, 'character')}" + (f" that matches {pattern}" if pattern else "")
    if shape.type in (int, float):
        return _number(shape, value)
    return "another value"


def _number(shape: Shape, value: Any) -> str:
    noun = "a whole number" if shape.type is int else "a number"
    if isinstance(value, float) and not math.isfinite(value):
        noun = "a finite number"
    low, high = _limit(shape, "ge"), _limit(shape, "le")
    if high == LARGEST and not (isinstance(value, int) and value > high):
        high = None  # a bound that nobody meets needs no words
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}"
    bounds = {"at least": low, "above": _limit(shape, "gt"), "at most": high, "below": _limit(shape, "lt")}
    words = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    noun += " of" * bool(words and words[0].startswith("at"))
    if (step := _limit(shape, "multiple_of")) is not None:
        words.append(f"divisible by {step}")
    return " ".join((noun, " and ".join(words))) if words else noun


def _length(shape: Shape, noun: str) -> str:
    least, most = _limit(shape, "min_length"), _limit(shape, "max_length")
    bounds = ([f"at least {least}"] if least else []) + ([f"at most {most}"] if most is not None else [])
    return f" of {' and '.join(bounds)} {noun}{'s' * ((most or least) != 1)}" if bounds else ""


def _limit(shape: Shape, name: str) -> Any:
    return next((bound for limit in shape.limits if (bound := getattr(limit, name, None)) is not None), None)


def _choices(shape: Shape) -> list[str]:
    return [choice for choice in get_args(shape.type) if isinstance(choice, str)] if get_origin(shape.type) is Literal else []
