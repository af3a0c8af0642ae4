"""Plain scalars read as YAML 1.2 says, not as YAML 1.1 does."""

from __future__ import annotations

import math
import re

import pytest

from moecli.recipe.yaml_scalars import BOOL, FLOAT, INT, STR, scalar_value
from moecli.recipe.yaml_source import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),  # octal in YAML 1.1
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000_000", 1_000_000),
        ("1e-3", 0.001),  # text in YAML 1.1
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("1_000.5", 1000.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        # text in YAML 1.2, something else in 1.1
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("0b11", "0b11"),
        ("=", "="),
        # nearly a number
        ("1__0", "1__0"),
        ("_1", "_1"),
        ("1e", "1e"),
        (".", "."),
        ("0o8", "0o8"),
        ("tRUE", "tRUE"),
        ("١٢", "١٢"),  # digits, but not ASCII
    ],
)
def test_plain_scalar(text: str, value: object) -> None:
    read = read_yaml(f"key: {text}\n").data["key"]
    assert read == value
    assert type(read) is type(value)


def test_nan() -> None:
    assert math.isnan(read_yaml(".nan").data)


@pytest.mark.parametrize(
    ("tag", "text", "what"),
    [
        (INT, "9" * 51, "a number of 51 digits is too large"),
        (FLOAT, "1e999", "the number is too large"),
        (FLOAT, "9" * 5000, "the number is too large"),
        (INT, "abc", "this is not what its YAML tag !!int says"),
        (BOOL, "yes", "this is not what its YAML tag !!bool says"),
        ("!odd", "1", "the YAML tag !odd has no meaning in a recipe"),
        ("tag:yaml.org,2002:timestamp", "2024-01-01", "the YAML tag !!timestamp has no meaning in a recipe"),
        (STR, "a\0b", "the text holds \\x00, which is no character"),
        (STR, "\ud83d", "the text holds \\ud83d, which is no character"),
    ],
)
def test_what_no_recipe_can_hold(tag: str, text: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(what)}$"):
        scalar_value(tag, text)
