"""A corpus made by rule: domains that are known, and therefore the loss and the experts that are ideal.

Knows Markov chains. Must not know tokenizers, splits or the cache.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from moecli.config import NonNegativeInt, PositiveInt
from moecli.data.corpora.base import Corpus
from moecli.data.documents import DOMAIN, Document
from moecli.errors import FieldProblem

ALPHABET = string.ascii_lowercase + string.ascii_uppercase + string.digits
DOCUMENTS_AT_ONCE = 1024


class SyntheticCorpus(Corpus):
    """Each domain is a first-order Markov chain of its own over the same letters. Meant for the tokenizer `char`.

    Every letter has `branching` equally likely successors, so the ideal loss is ln(branching) nats per character once the domain is
    known, and the ideal expert is one per domain. Every letter also has `branching` predecessors: all letters are equally frequent in
    all domains, and nothing but the transitions tells domains apart.
    """

    kind: Literal["synthetic"] = "synthetic"
    num_domains: PositiveInt = 4
    """Chains; document i belongs to chain i modulo this."""
    domains: list[NonNegativeInt] | None = None
    """The chains, counted from 0, whose documents are read; the same documents as without this. Default: all."""
    num_documents: PositiveInt = 2000
    """Documents in all, those of chains that are not read included."""
    document_length: PositiveInt = 1000
    """Characters per document."""
    num_symbols: Annotated[int, Interval(ge=2, le=len(ALPHABET))] = 26
    """Letters that the chains share."""
    branching: PositiveInt = 4
    """Successors of each letter."""
    seed: NonNegativeInt = 0
    """Seed of the chains and of the texts; not the seed of the training."""

    def problems(self) -> list[FieldProblem]:
        problems = self._domain_problems()
        if self.branching > self.num_symbols:
            what = f"more successors than there are letters ({self.num_symbols})"
            allowed = f"1 to num_symbols ({self.num_symbols})"
            problems.append(FieldProblem("branching", what, allowed=allowed, involves=("num_symbols",)))
        return problems

    def _domain_problems(self) -> list[FieldProblem]:
        if self.domains is None:
            return []
        allowed = f"different numbers from 0 to num_domains - 1 ({self.num_domains - 1})"
        unknown = [domain for domain in self.domains if domain >= self.num_domains]
        found = [f"there is no domain {domain}" for domain in dict.fromkeys(unknown)]
        found += [f"domain {domain} is there twice" for domain in dict.fromkeys(self.domains) if self.domains.count(domain) > 1]
        if not self.domains:
            found.append("no domain is named")
        return [FieldProblem("domains", what, allowed=allowed, involves=("num_domains",)) for what in found]

    def label_kinds(self) -> tuple[str, ...]:
        return (DOMAIN,)

    def describe(self) -> str:
        read = "" if self.domains is None else f", of which domains {self.domains} are read"
        return f"corpus synthetic ({self.num_documents} documents of {self.num_domains} domains{read})"

    def successors(self) -> np.ndarray:
        """Letter numbers [domain, letter, branch]: what may follow a letter in a domain."""
        rng = np.random.default_rng(self.seed)
        table = np.empty((self.num_domains, self.num_symbols, self.branching), dtype=np.int64)
        for domain in range(self.num_domains):
            # Neighbours on a shuffled circle: distinct, and each letter is reached from as many letters as it leads to.
            circle = rng.permutation(self.num_symbols)
            place = rng.permutation(self.num_symbols)
            table[domain] = circle[(place[:, None] + np.arange(self.branching)) % self.num_symbols]
        return table

    def documents(self) -> Iterator[Document]:
        successors = self.successors()
        letters = np.frombuffer(ALPHABET.encode("ascii"), dtype=np.uint8)
        for first in range(0, self.num_documents, DOCUMENTS_AT_ONCE):
            rng = np.random.default_rng([self.seed, first])
            numbers = np.arange(first, min(first + DOCUMENTS_AT_ONCE, self.num_documents))
            domains = numbers % self.num_domains
            branches = rng.integers(self.branching, size=(self.document_length, len(numbers)), dtype=np.int8)
            states = np.empty((self.document_length, len(numbers)), dtype=np.int8)
            states[0] = rng.integers(self.num_symbols, size=len(numbers))
            for step in range(1, self.document_length):
                states[step] = successors[domains, states[step - 1], branches[step]]
            for column, number in enumerate(numbers):
                if self.domains is not None and domains[column] not in self.domains:
                    continue
                text = letters[states[:, column]].tobytes().decode("ascii")
                yield Document.labelled(text, f"document {number}", {DOMAIN: f"domain-{domains[column]}"})
