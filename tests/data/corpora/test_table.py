"""What holds for every corpus in the table."""

from __future__ import annotations

import pytest

from moecli.data.corpora import CORPORA
from moecli.data.corpora.base import Corpus

OPTIONS = {"files": {"paths": ["a.txt"]}, "hub": {"path": "owner/name"}, "synthetic": {"num_documents": 2}}


@pytest.mark.parametrize("kind", CORPORA)
def test_a_corpus_is_a_config_that_says_what_it_reads(kind):
    corpus = CORPORA[kind].model_validate({"kind": kind, **OPTIONS.get(kind, {})})
    assert isinstance(corpus, Corpus)
    assert corpus.kind == kind
    assert kind in corpus.describe()
    assert CORPORA[kind].model_validate(corpus.model_dump()) == corpus


@pytest.mark.parametrize("kind", CORPORA)
def test_every_field_says_what_it_is(kind):
    for name, field in CORPORA[kind].model_fields.items():
        assert name == "kind" or field.description
