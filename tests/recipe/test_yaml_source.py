"""YAML text to plain data with lines: what is read, what is refused and where, and that hostile text costs nothing."""

from __future__ import annotations

import random
import string
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moecli.recipe.yaml_source import Flaw, YamlFault, read_yaml, write_yaml

TEXT = """\
# a comment
name: toy
model:
  ffn: {kind: mlp,
        d_ff: 3}
  layers:
    - 1
    - 2
"""


def test_data_and_lines() -> None:
    tree = read_yaml(TEXT)
    assert tree.data == {"name": "toy", "model": {"ffn": {"kind": "mlp", "d_ff": 3}, "layers": [1, 2]}}
    assert tree.flaws == []
    assert tree.lines == {
        (): 2,
        ("name",): 2,
        ("model",): 3,
        ("model", "ffn"): 4,
        ("model", "ffn", "kind"): 4,
        ("model", "ffn", "d_ff"): 5,
        ("model", "layers"): 6,
        ("model", "layers", 0): 7,
        ("model", "layers", 1): 8,
    }


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_empty_text_is_none(text: str) -> None:
    assert read_yaml(text).data is None


def test_byte_order_mark_is_no_part_of_a_key() -> None:
    assert read_yaml("\ufeffa: 1").data == {"a": 1}


def test_anchors_give_copies() -> None:
    data = read_yaml("a: &x {n: [1]}\nb: *x\n").data
    assert data == {"a": {"n": [1]}, "b": {"n": [1]}}
    assert data["a"]["n"] is not data["b"]["n"]


def test_merge_keys() -> None:
    tree = read_yaml("a: &a {x: 1, y: 1}\nb: &b\n  y: 2\n  z: 2\nc:\n  <<: [*a, *b]\n  x: 3\nd: {'<<': 4}\n")
    # its own x wins over a's, a's y over b's because a comes first
    assert tree.data["c"] == {"x": 3, "y": 1, "z": 2}
    assert tree.lines["c", "z"] == 4
    assert tree.data["d"] == {"<<": 4}  # in quotes it is a key like any other
    assert tree.flaws == []


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("a: 1\nb: 2\na: 3\n", Flaw(("a",), 3, "given twice, in line 1 and in line 3")),
        ("m:\n  a: 1\n  'a': 3\n", Flaw(("m", "a"), 3, "given twice, in line 2 and in line 3")),
        ("\n3: x", Flaw(("3",), 2, 'a key must be text: write it in quotes, "3"')),
        ("true: x", Flaw(("true",), 1, 'a key must be text: write it in quotes, "true"')),
        ("m: {[a, b]: x}", Flaw(("m",), 1, "a key must be text, not a list or a mapping")),
        ("? {a: b}\n: x", Flaw((), 1, "a key must be text, not a list or a mapping")),
        ('"\\0": x', Flaw(("\0",), 1, "the text holds \\x00, which is no character")),
        ('a: "\\ud800"', Flaw(("a",), 1, "the text holds \\ud800, which is no character")),
        ("a: !!set {x}", Flaw(("a",), 1, "the YAML tag !!set has no meaning in a recipe")),
        ("a: !!python/object:os.system x", Flaw(("a",), 1, "the YAML tag !!python/object:os.system has no meaning in a recipe")),
        ("a: [1, !odd x]", Flaw(("a", 1), 1, "the YAML tag !odd has no meaning in a recipe")),
        ("<<: 3", Flaw(("<<",), 1, "merges a mapping or a list of mappings, nothing else")),
        ("a: {<<: [1]}", Flaw(("a", "<<"), 1, "merges a mapping or a list of mappings, nothing else")),
        ("a: " + "9" * 5000, Flaw(("a",), 1, "a number of 5000 digits is too large")),
    ],
)
def test_flaws_name_key_and_line(text: str, flaw: Flaw) -> None:
    assert read_yaml(text).flaws == [flaw]


def test_every_flaw_is_told_once_though_merged_in_twice() -> None:
    tree = read_yaml("a: &a {x: 1, 3: 1}\nb: {<<: [*a, *a]}\nc: 1e999\n")
    assert [flaw.path for flaw in tree.flaws] == [("a", "3"), ("b", "3"), ("c",)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a:\n\tb: 1", (2, 1, "a tab can't indent: use spaces")),
        ("a: b: c", (1, 5, "no ':' can stand here: check the indentation, or put text that holds ': ' in quotes")),
        ("a: 1\nb\nc: 2", (3, 1, "a ':' is missing after the key")),
        ("a: 1\nb: [1, 2\nc: 3\n", (2, 4, "the list that begins here is not closed: ',' or ']' is missing")),
        ("{a: 1\n", (1, 1, "the mapping that begins here is not closed: ',' or '}' is missing")),
        ("a: 'x\nb: 3\n", (1, 4, "the quotes that open here are never closed")),
        ("a:\n  - 1\n - 2\n", (3, 2, "this does not line up with the lines above")),
        ("a: - 1", (1, 4, "a list item ('- ') can't begin here: give it a line of its own")),
        ("a: @x", (1, 4, "a plain value can't begin with this character: put it in quotes")),
        ("a: }", (1, 4, "a value is missing here")),
        ("a: *x", (1, 4, "not valid YAML: found undefined alias 'x'")),
        ("a: &x 1\nb: &x 2", (2, 4, "this anchor (&) stands at another value already")),
        ("a: 1\n---\nb: 2\n", (2, 1, "a second document begins here (---): a recipe is one")),
        ("a: 1\nb: x\0y", (2, 5, "the character \\x00 can't stand in YAML")),
        ("\ud800: 1", (1, 1, "the character \\ud800 can't stand in YAML")),
        ('a: "\\UFFFFFFFF"', (1, 7, "a number in an escape or a directive is out of range")),
        (f"%YAML 1.{'9' * 5000}\n---\na: 1", (1, 9, "a number in an escape or a directive is out of range")),
        ("[" * 100_000, (1, 41, "more than 40 levels deep, or an anchor within itself")),
        ("- " * 1000, (1, 81, "more than 40 levels deep, or an anchor within itself")),
        ("a: &a [*a]", (1, 4, "more than 40 levels deep, or an anchor within itself")),
        ("a: &a {<<: *a}", (1, 8, "more than 40 levels deep, or an anchor within itself")),
        ("[" + "1," * 10_000 + "]", (1, 20000, "more than 10000 values, where every alias counts in full")),
    ],
)
def test_faults_name_line_and_column(text: str, fault: tuple[int, int, str]) -> None:
    with pytest.raises(YamlFault) as caught:
        read_yaml(text)
    assert (caught.value.line, caught.value.column, caught.value.what) == fault


@pytest.mark.parametrize("nine", ["[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]", "{{<<: [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]}}"])
def test_alias_bomb(nine: str) -> None:
    names = string.ascii_lowercase
    # 9^25 values, or as many visits to a merged mapping: nobody would live to see the end of it
    bomb = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {nine.format('*' + a)}\n" for a, b in pairwise(names))
    with pytest.raises(YamlFault, match="more than 10000 values"):
        read_yaml(bomb)


PRINTABLE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
SCALARS = st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False) | PRINTABLE
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PRINTABLE, inner, max_size=4), max_leaves=12)


@given(VALUES)
def test_what_is_written_is_read_back(data: Any) -> None:
    text = write_yaml(data)
    assert_same(read_yaml(text).data, data)
    assert_same(yaml.safe_load(text), data)  # a YAML 1.1 reader


@pytest.mark.parametrize(
    "word", ["no", "on", "1e-3", "0o17", "1_0", "010", "2024-01-01", "null", "", "=", "<<", "1:30", " x", "#", "a: b", "é🦉\u2028"]
)
def test_text_that_looks_like_something_else_stays_text(word: str) -> None:
    text = write_yaml({word: word})
    assert read_yaml(text).data == {word: word} == yaml.safe_load(text)


def test_writing_uses_no_aliases_and_keeps_the_order() -> None:
    shared = {"x": 1e-05}
    assert write_yaml({"b": shared, "a": [shared]}) == "b:\n  x: 1.0e-05\na:\n- x: 1.0e-05\n"


@given(st.text() | st.text(alphabet="ab01:-[]{}&*!<>|?'\"%@#,.\n\t \\~_e"))
def test_random_text_is_read_or_is_a_fault(text: str) -> None:
    try:
        tree = read_yaml(text)
    except YamlFault as fault:
        assert 1 <= fault.line <= len(text.splitlines()) + 1
        assert fault.column >= 1
        assert fault.what.isprintable()
    else:
        assert all(flaw.line >= 1 and flaw.what.isprintable() for flaw in tree.flaws)


def test_a_damaged_text_is_read_or_is_a_fault() -> None:
    rng = random.Random(0)
    outcomes = set()
    for _ in range(1500):
        letters = list(TEXT)
        for _ in range(rng.randint(1, 3)):
            letters[rng.randrange(len(letters))] = rng.choice(
                ["", "\t", "\0", "[", "}", ": ", "&a ", "*a", "\n", "- ", '"', "\\U", "!!", "| ", "é", "%"]
            )
        try:
            outcomes.add(type(read_yaml("".join(letters)).data))
        except YamlFault:
            outcomes.add(YamlFault)
    assert {dict, YamlFault} <= outcomes  # both kinds of damage came up


def assert_same(read: Any, written: Any) -> None:
    """Equal, and of the same types all the way down (True == 1 == 1.0 would pass otherwise)."""
    assert repr(read) == repr(written)
