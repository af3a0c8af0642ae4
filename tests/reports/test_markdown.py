"""Markdown: aligned tables, and texts that stay texts."""

from __future__ import annotations

import pytest

from moecli.reports.markdown import bullets, escaped, table


def cells(line: str) -> list[str]:
    """Of a table's line, split at bars without a backslash, as GitHub does it."""
    parts, current, is_escaped = [], "", False
    for letter in line:
        if letter == "|" and not is_escaped:
            parts.append(current.strip())
            current = ""
        else:
            current += letter
        is_escaped = letter == "\\" and not is_escaped
    return parts[1:]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dense-active", "dense-active"),
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("*a* _b_ `c` ~d~ $e$", "\\*a\\* \\_b\\_ \\`c\\` \\~d\\~ \\$e\\$"),
        ("<script>&lt;", "\\<script\\>\\&lt;"),
        ("[x](y) #12", "\\[x\\](y) \\#12"),
        ("a\nb\u202ec\x07", "a\\\\nb\\\\u202ec\\\\x07"),
        ("@someone me@here @", "@\u2060someone me@\u2060here @"),
    ],
)
def test_a_text_is_no_markup(text, shown):
    assert escaped(text) == shown


def test_a_text_begins_no_other_list():
    assert bullets(["- a", "+ b", "1. c", "12) d", "e - f", "= g"]) == "- \\- a\n- \\+ b\n- 1\\. c\n- 12\\) d\n- e - f\n- \\= g"


def test_columns_are_aligned():
    assert table(["arm", "loss"], [["a", "4.05"], ["b|c", "–"]]) == (
        "| arm  | loss |\n"
        "| ---- | ---: |\n"
        "| a    | 4.05 |\n"
        "| b\\|c |    – |"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["a|b", "\\", "a\\", "|", "", "x" * 200, "`|`", "a\nb"])
def test_no_name_makes_another_column(name):
    lines = table([name, "second"], [[name, name], ["plain", "1"]]).splitlines()
    assert [len(cells(line)) for line in lines] == [2] * 4
    assert len({len(line) for line in lines}) == 1


def test_rows_have_the_columns_of_the_header():
    with pytest.raises(AssertionError, match="different lengths"):
        table(["a", "b"], [["1"]])
