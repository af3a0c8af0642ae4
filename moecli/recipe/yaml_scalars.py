"""The scalars of YAML 1.2's core schema: which plain text is a number, a truth value, null or just text.

Knows regular expressions and Python values. Must not know documents, key paths or recipes. It is not YAML 1.1: `no`, `on` and
`2024-01-01` are text. One thing is added to 1.2: digits may be grouped, `1_000_000`.
"""

from __future__ import annotations

import math
import re
from typing import Any

_PREFIX = "tag:yaml.org,2002:"
STR, NULL, BOOL, INT, FLOAT = (_PREFIX + name for name in ("str", "null", "bool", "int", "float"))
SEQ, MAP, MERGE = (_PREFIX + name for name in ("seq", "map", "merge"))

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
# (tag, what plain text has to look like, the characters that it can begin with; "" is empty text)
RESOLVERS: tuple[tuple[str, re.Pattern[str], list[str]], ...] = (
    (NULL, re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    (BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    (INT, re.compile(rf"(?:[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), list("-+0123456789")),
    (
        FLOAT,
        re.compile(
            rf"(?:[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        list("-+.0123456789"),
    ),
    (MERGE, re.compile(r"<<\Z"), ["<"]),
)
_PATTERNS = {tag: pattern for tag, pattern, _ in RESOLVERS}

_MOST_DIGITS = 50  # more than any number of a recipe needs, less than what Python refuses to convert


def scalar_value(tag: str, text: str) -> Any:
    """The Python value of a scalar.

    Raises:
        ValueError: with what is wrong, in words for the reader.
    """
    if tag == STR:
        return checked_text(text)
    if tag not in (NULL, BOOL, INT, FLOAT):
        raise ValueError(f"the YAML tag {short_tag(tag)} has no meaning in a recipe")
    if not _PATTERNS[tag].match(text):
        raise ValueError(f"this is not what its YAML tag {short_tag(tag)} says")
    if tag == NULL:
        return None
    if tag == BOOL:
        return text.lower() == "true"
    return _whole_number(text) if tag == INT else _number(text)


def checked_text(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it holds what is no character: NUL, or half of a surrogate pair.
    """
    for letter in text:
        if letter == "\0" or "\ud800" <= letter <= "\udfff":
            raise ValueError(f"the text holds {letter.encode('unicode_escape').decode('ascii')}, which is no character")
    return text


def short_tag(tag: str) -> str:
    return tag.replace(_PREFIX, "!!") if tag.startswith(_PREFIX) else tag


def _whole_number(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits is too large")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text.replace("_", ""), base)


def _number(text: str) -> float:
    plain = text.lower().replace("_", "")
    if plain.endswith(("inf", "nan")):
        return float(plain.replace(".", ""))
    if math.isinf(value := float(plain)):
        raise ValueError("the number is too large")
    return value
