"""The corpus that every Python carries: the sources of its standard library and its English reference topics.

Knows which modules are taken. Must not know tokenizers, splits or the cache. Nothing here imports a module that it reads.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Literal

from annotated_types import Interval

from moecli.config import LARGEST
from moecli.data.corpora.base import Corpus
from moecli.data.documents import DOMAIN, TOKEN_CLASS, Document
from moecli.data.python_labels import label_python
from moecli.data.python_sources import find_source, find_sources, library_roots
from moecli.errors import DataError

MIN_BYTES = 200_000
MAX_DOCUMENT_BYTES = 100_000

# Not every Python has these: test suites, what needs Tk, what distributions package apart, what one platform or version alone has.
OPTIONAL = frozenset({"test", "tests", "idlelib", "tkinter", "turtle", "turtledemo", "lib2to3", "distutils", "ensurepip", "venv", "msilib"})
# The topics are read on their own, and the modules of `encodings` are tables rather than text.
LEFT_OUT = OPTIONAL | {"pydoc_data", "encodings"}


class StdlibCorpus(Corpus):
    """Python modules and reference topics, with the domains code, comment, docstring and prose, and token classes by Python's tokenizer.

    Modules are found through the import system, so it does not matter where Python lives, nor whether in a zip file. They are taken in
    the order of their hashes: a smaller `max_bytes` gives a part of a larger one. Modules of more than 100,000 bytes are left out, as
    few documents would otherwise be most of a split. Another version of Python gives other text.
    """

    kind: Literal["stdlib"] = "stdlib"
    max_bytes: Annotated[int, Interval(ge=MIN_BYTES, le=LARGEST)] = 4_000_000
    """UTF-8 bytes of text to take at most."""

    def label_kinds(self) -> tuple[str, ...]:
        return (DOMAIN, TOKEN_CLASS)

    def describe(self) -> str:
        return "corpus stdlib (the sources of Python's standard library)"

    def documents(self) -> Iterator[Document]:
        """Raises DataError where fewer than 200,000 bytes are found."""
        roots = library_roots(sys.path)
        taken = 0
        for document, num_bytes in _in_hash_order([*_modules(roots), *_topics(roots)]):
            if taken + num_bytes > self.max_bytes:
                return
            if document.find_labels is label_python and not _is_python(document.text):
                continue
            taken += num_bytes
            yield document
        if taken < MIN_BYTES:
            looked = ", ".join(roots) or "no folder of sys.path"
            raise DataError(
                f"found only {taken:,} bytes of Python sources, fewer than {MIN_BYTES:,} (looked in: {looked})",
                where=self.describe(),
                next_step="install the sources of Python's standard library, or use text of your own: data.corpus.kind files",
            )


def _in_hash_order(documents: list[Document]) -> Iterator[tuple[Document, int]]:
    encoded = sorted((hashlib.sha256(data := d.text.encode()).digest(), len(data), d.source, d) for d in documents)
    return ((document, num_bytes) for _, num_bytes, _, document in encoded if num_bytes <= MAX_DOCUMENT_BYTES)


def _modules(roots: list[str]) -> Iterator[Document]:
    # What the tokenizer calls a string or a name differs between versions of Python, so the version is part of the key.
    key = f"python {sys.version_info.major}.{sys.version_info.minor}"
    for name, source in find_sources(sorted(sys.stdlib_module_names), roots, LEFT_OUT):
        yield Document(source, name, label_python, key)


def _topics(roots: list[str]) -> Iterator[Document]:
    """The reference topics of `help()`, read from the source of their module; none where it is not installed."""
    source = find_source("pydoc_data.topics", roots) or ""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for topic, text in ast.literal_eval(statement.value).items():
                yield Document.labelled(text, f"topic {topic}", {DOMAIN: "prose", TOKEN_CLASS: "text"})


def _is_python(source: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(source)
        except (SyntaxError, ValueError):
            return False
    return True
