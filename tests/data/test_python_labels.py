"""Labels of a Python source, checked by hand."""

from __future__ import annotations

import pytest

from moecli.data.python_labels import label_python

SOURCE = '''"""Doc."""
# why
def f(x):  # how
    """Inner."""
    if x:
        return "a" + 1.5
class A:
    # a comment first
    "doc"
    "not a docstring"
    def g(self): "on one line"
y = "no docstring"
'''


def pieces(kind, source=SOURCE):
    return [(source[span.start : span.end], span.value) for span in label_python(source)[kind]]


def test_domains_by_hand():
    assert pieces("domain") == [
        (SOURCE, "code"),
        ("# why", "comment"),
        ("# how", "comment"),
        ("# a comment first", "comment"),
        ('"""Doc."""', "docstring"),
        ('"""Inner."""', "docstring"),
        ('"doc"', "docstring"),
    ]


def test_token_classes_by_hand():
    source = "if é:\n    x = f(1)  # one\n\ny = 'é'\n"
    assert pieces("token_class", source) == [
        ("\n    ", "indentation"),
        ("\n", "indentation"),
        ("\n", "indentation"),
        ("\n", "indentation"),
        ("if", "keyword"),
        ("é", "name"),
        (":", "operator"),
        ("x", "name"),
        ("=", "operator"),
        ("f", "name"),
        ("(", "operator"),
        ("1", "number"),
        (")", "operator"),
        ("# one", "comment"),
        ("y", "name"),
        ("=", "operator"),
        ("'é'", "string"),
    ]


def test_a_string_over_several_lines_is_one_string():
    source = 'x = """a\n    b"""\n'
    found = pieces("token_class", source)
    assert found[-1] == ('"""a\n    b"""', "string")  # the last span counts where spans overlap
    assert ("\n    ", "indentation") in found


@pytest.mark.parametrize("statement", ['"a".join(b)', 'f"{x}"', '"a", "b"'])
def test_a_string_in_a_larger_statement_is_no_docstring(statement):
    assert "docstring" not in dict(pieces("domain", f"def f():\n    {statement}\n")).values()


@pytest.mark.parametrize("opener", ["if x", "for x in y", "with x"])
def test_a_string_that_begins_another_block_is_no_docstring(opener):
    assert "docstring" not in dict(pieces("domain", f"{opener}:\n    'a string'\n")).values()


def test_the_quotes_of_an_f_string_are_string():
    source = 'x = f"a{b}c"\n'
    spans = label_python(source)["token_class"]
    classes = {index: span.value for span in spans for index in range(span.start, span.end)}
    assert [classes[index] for index in (4, 5, 6, 10, 11)] == ["string"] * 5
