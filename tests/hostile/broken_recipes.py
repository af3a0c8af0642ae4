"""Recipes that are broken on purpose, drawn by hypothesis from those that ship.

Knows YAML and what a recipe holds. Must not know how a recipe is read.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from moecli.recipe.load import load_recipe
from moecli.recipe.problem import KeyPath, show_path
from moecli.recipe.shipped import shipped_recipes

SHIPPED = {name: load_recipe(name).recipe.model_dump(mode="json") for name in shipped_recipes()}

# Written as they stand for a value: no key of a recipe takes one of them.
NEVER_VALUES = ["{unexpected: [1, 2]}", "[[{}]]", "!!set {a, b}", "!!binary aGVsbG8=", "!custom 1", "!!python/object/apply:os.system [id]"]
NEVER_NUMBERS = [".inf", "-.inf", ".nan", "1e400", "-1e400", "9" * 60, "9" * 5000, "-3", str(-(2**63)), '"12"', "12abc", "٣", "1.2.3"]
NEVER_FLAGS = ["yes", "1", "0", '"true"', "trUe", "on"]

# The whole text, or a last line of it: no YAML, or nothing that a recipe can be.
NEVER_TEXTS = [
    b"", b"\n\n# nothing but a comment\n", b"- a\n- b\n", b"just text\n", b"null\n", b"17\n", b"[]\n", b"{}: {}\n", b"--- {}\n--- {}\n",
    b"name: [\n",
    b"name: {a: 1\n", b'name: "open\n', b"name: 'open\n", b"\tname: a\n", b"name:\n\t- a\n", b"? [a, b]\n: c\n", b"1: 2\n", b"true: 1\n",
    b"~: 1\n",
    b"2020-01-01: 1\n", b"a: *nowhere\n", b"a: &x [*x]\n", b"<<: 3\n", b"<<: [1]\n", b"<<: *a\n",
    b"%YAML 99999999999999999999.1\n---\nname: a\n",
    b"%TAG ! tag:x,2000:\n---\n!a {}\n", b'name: "\\UFFFFFFFF"\n', b'name: "\\ud800"\n', b'name: "\\0"\n', b"\x00\x00\x00",
    b"\xff\xfe\x00\x00",
    "name: a\n".encode("utf-16"), "name: é\n".encode("latin-1"), b"PK\x03\x04\x14\x00", b"\x80\x04K\x01.", b"a" * (2**20 + 1),
    b"a: " + b"[" * 100 + b"]" * 100, b"a: " + b"{a: " * 5000 + b"}" * 5000, b"[" * 200_000, b"- " * 2000 + b"a\n", b"a: &a b\nc: &a d\n",
    b"name: a: b\n", b"name: @a\n", b"name: `a`\n", b"a: !<tag:yaml.org,2002:python/name:os.system> x\n", b"\xef\xbb\xbf\xef\xbb\xbf- a\n",
    b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 10))
    for c in range(97, 107)),
    b"a: &a {x: 1}\n" + b"".join(b"%c: &%c {<<: [%s]}\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 10)) for c in range(97, 107)),
]  # fmt: skip

NEVER_OVERRIDES = [
    "", "=", "=1", "model.d_model", ".=1", "model..d_model=1", "model.d_model=", "model.d_model=[", "model.d_model={a: 1",
    "model.d_model='x",
    "model.d_model.x=1", "model=1", "model=[]", "training.steps=1e400", "training.steps=" + "9" * 4000, "name=a/b", "name=../../etc",
    "name=\x1b[31mred",
    "data.seq_len=true", "seed=-1", "\udcff=1", "name=\udcff", "name=\0", "a" * 5000 + "=1", ".".join("a" * 100) + "=1",
    "model.ffn.kind=banana",
    "model.ffn.router={kind: [1]}", "training.freeze=[router, [x]]", "model.d_model=!!python/object/apply:os.system [id]",
    "model.d_model=*x",
    "model.d_model=&a [*a]", "nonsense=1", "training.stepz=3", "model.num_heads=7", "seed=0x" + "f" * 60, "training.learning_rate=.nan",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class BrokenRecipe:
    """A recipe file, what is laid over it, and how it was broken."""

    content: bytes
    overrides: tuple[str, ...]
    how: str
    named: str = ""
    """The key path that the message has to name; empty where it is a line or an override."""
    is_surely_broken: bool = True
    """False where what was drawn may happen to be fine."""


@st.composite
def broken_recipes(draw: DrawFn) -> BrokenRecipe:
    """One of the ways to break a recipe, at a place of its own."""
    data = SHIPPED[draw(st.sampled_from(sorted(SHIPPED)))]
    way = draw(st.sampled_from([_wrong_value, _unknown_key, _twice, _never_text, _override, _bytes, _edited, _swapped]))
    return way(draw, data)


def _wrong_value(draw: DrawFn, data: dict[str, Any]) -> BrokenRecipe:
    path, value = draw(st.sampled_from(list(_leaves(data))))
    never = list(NEVER_VALUES)
    if isinstance(value, bool):
        never += NEVER_FLAGS
    elif isinstance(value, int | float):
        never += NEVER_NUMBERS
    written = draw(st.sampled_from(never))
    return BrokenRecipe(_text(data, {path: written}).encode(), (), f"value {written[:20]}", show_path(path))


def _unknown_key(draw: DrawFn, data: dict[str, Any]) -> BrokenRecipe:
    parent = draw(st.sampled_from(list(_mappings(data))))
    key = draw(
        st.text(min_size=1, max_size=30) | st.text(string.ascii_lowercase + "_", min_size=1, max_size=12).map(lambda word: word + "_x")
    )
    path = (*parent, key)
    # a NUL is refused as no character, and is named all the same
    return BrokenRecipe(_text(data, {path: "1"}).encode(), (), "unknown key", show_path(path))


def _twice(draw: DrawFn, data: dict[str, Any]) -> BrokenRecipe:
    path, _ = draw(st.sampled_from(list(_leaves(data))))
    lines = _text(data, {path: "1, " + json.dumps(path[-1]) + ": 2"})
    return BrokenRecipe(lines.encode(), (), "key given twice", show_path(path))


def _never_text(draw: DrawFn, data: dict[str, Any]) -> BrokenRecipe:
    content = draw(st.sampled_from(NEVER_TEXTS))
    return BrokenRecipe(content, (), f"text {content[:16]!r}")


def _override(draw: DrawFn, data: dict[str, Any]) -> BrokenRecipe:
    overrides = draw(st.lists(st.sampled_from(NEVER_OVERRIDES) | _noise(), min_size=1, max_size=4))
    sure = any(override in NEVER_OVERRIDES for override in overrides)
    return BrokenRecipe(_text(data, {}).encode(), tuple(overrides), "override", is_surely_broken=sure and len(overrides) == 1)


def _noise() -> st.SearchStrategy[str]:
    keys = st.sampled_from(["name", "seed", "model", "model.ffn", "model.ffn.router.top_k", "training.freeze", "data.corpus"]) | st.text(
        max_size=8
    )
    return st.builds(lambda key, value: f"{key}={value}", keys, st.text(max_size=12))


def _bytes(draw: DrawFn, data: dict[str, Any]) -> BrokenRecipe:
    content = bytearray(_text(data, {}).encode())
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return BrokenRecipe(bytes(content), (), "bytes", is_surely_broken=False)


def _edited(draw: DrawFn, data: dict[str, Any]) -> BrokenRecipe:
    """Pieces of YAML put into the text anywhere, or pieces of the text left out."""
    text = yaml.safe_dump(data, sort_keys=False)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        piece = draw(
            st.sampled_from(
                ["", " ", "\n", "\t", ":", "- ", "{", "}", "[", "]", "&a ", "*a", "!x ", "<<: ", "? ", "|", ">", "'", '"', "#", "%", "\x85"]
            )
        )
        text = text[:start] + piece + text[end:]
    return BrokenRecipe(text.encode(), (), "edited", is_surely_broken=False)


def _swapped(draw: DrawFn, data: dict[str, Any]) -> BrokenRecipe:
    """Numbers that are fine by themselves at several keys, so that rules between them break."""
    leaves = [path for path, value in _leaves(data) if isinstance(value, int) and not isinstance(value, bool)]
    paths = draw(st.lists(st.sampled_from(leaves), min_size=1, max_size=5, unique=True))
    changes = {path: str(draw(st.sampled_from([0, 1, 3, 7, 64, 2**31 - 1]))) for path in paths}
    return BrokenRecipe(_text(data, changes).encode(), (), "numbers", is_surely_broken=False)


def _leaves(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _mappings(data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    yield path
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _mappings(value, (*path, key))


def _text(data: dict[str, Any], raw: dict[KeyPath, str], path: KeyPath = ()) -> str:
    """The recipe in flow style, one key to a line, with `raw` written as it is at its places."""
    here = {place[-1]: text for place, text in raw.items() if place[:-1] == path}
    entries = [
        f"{json.dumps(key)}: {here.get(key) or (_text(value, raw, (*path, key)) if isinstance(value, dict) else json.dumps(value))}"
        for key, value in data.items()
    ]
    entries += [f"{_quoted(str(key))}: {text}" for key, text in here.items() if key not in data]
    return "{" + ",\n ".join(entries) + "}"


def _quoted(key: str) -> str:
    """In double quotes, what is no ASCII as an escape of YAML; JSON would write one character beyond U+FFFF as two."""
    return '"' + "".join(c if (c.isascii() and c.isalnum()) or c == "_" else f"\\U{ord(c):08x}" for c in key) + '"'
