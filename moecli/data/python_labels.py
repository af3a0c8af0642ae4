"""Labels of a Python source: which parts are code, comment or docstring, and the class of each token.

Knows Python's own tokenizer. Must not know corpora or any other tokenizer.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

from moecli.data.documents import DOMAIN, TOKEN_CLASS, Labels, Span

_LINE_START = re.compile(r"\n[ \t\f]*")
_CLASSES = {"OP": "operator", "NUMBER": "number", "STRING": "string", "COMMENT": "comment"}
_NOT_STATEMENTS = {tokenize.COMMENT, tokenize.NL}
_PLAIN_STRING = re.compile(r"[rRuU]?['\"]")  # a docstring is neither formatted nor bytes
_OPENS_DOCSTRING = {"def", "class", "async"}


def label_python(text: str) -> Labels:
    """The labels of a source that Python can parse, with line ends "\\n".

    domain: code, comment, docstring. token_class: keyword, name, operator, string, comment, number, and indentation, which is a line
    break with the white space after it. White space between tokens has no class.
    """
    tokens = list(tokenize.generate_tokens(io.StringIO(text, newline="\n").readline))
    line_starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]

    def span(token: tokenize.TokenInfo, value: str) -> Span:
        (first_row, first_column), (last_row, last_column) = token.start, token.end
        return Span(line_starts[first_row - 1] + first_column, line_starts[last_row - 1] + last_column, value)

    domains = [Span(0, len(text), "code")]
    domains += [span(token, "comment") for token in tokens if token.type == tokenize.COMMENT]
    domains += [span(token, "docstring") for token in _docstrings(tokens)]
    classes = [Span(*match.span(), "indentation") for match in _LINE_START.finditer(text)]
    classes += [span(token, value) for token in tokens if (value := _class_of(token))]
    return {DOMAIN: tuple(domains), TOKEN_CLASS: tuple(classes)}


def _class_of(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else "name"
    # From Python 3.12 on the parts of an f-string are tokens of their own: FSTRING_START, FSTRING_MIDDLE, FSTRING_END.
    name = tokenize.tok_name[token.type]
    return "string" if "STRING_" in name else _CLASSES.get(name, "")


def _docstrings(tokens: Iterable[tokenize.TokenInfo]) -> Iterator[tokenize.TokenInfo]:
    """The strings that are the whole first statement of a module, class or function."""
    first_of_block, first_of_line, opener = True, True, ""
    significant = (token for token in tokens if token.type not in _NOT_STATEMENTS)
    for token, following in pairwise(significant):
        if token.type == tokenize.INDENT:
            first_of_block = opener in _OPENS_DOCSTRING
        elif token.type == tokenize.NEWLINE:
            first_of_line = True
        elif first_of_line and token.type != tokenize.DEDENT:
            if first_of_block and _PLAIN_STRING.match(token.string) and following.type == tokenize.NEWLINE:
                yield token
            first_of_block, first_of_line, opener = False, False, token.string
