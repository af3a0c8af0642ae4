"""The synthetic corpus keeps its promises: known domains, known ideal loss, equally frequent letters."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from moecli.data.corpora import SyntheticCorpus

CORPUS = SyntheticCorpus(num_domains=3, num_documents=30, document_length=500, num_symbols=10, branching=4, seed=1)


def test_sizes_and_labels():
    documents = list(CORPUS.documents())
    assert [len(document.text) for document in documents] == [500] * 30
    assert [document.labels["domain"][0].value for document in documents[:4]] == ["domain-0", "domain-1", "domain-2", "domain-0"]
    assert set("".join(document.text for document in documents)) == set("abcdefghij")


def test_every_letter_has_as_many_successors_and_predecessors_as_branching_says():
    table = CORPUS.successors()
    assert table.shape == (3, 10, 4)
    for domain in table:
        assert all(len(set(row)) == 4 for row in domain.tolist())
        assert np.bincount(domain.flatten(), minlength=10).tolist() == [4] * 10
    assert not (np.sort(table[0]) == np.sort(table[1])).all()


def test_texts_follow_their_domain_and_cost_ln_branching():
    followers = defaultdict(lambda: defaultdict(Counter))
    for document in CORPUS.documents():
        for first, second in pairwise(document.text):
            followers[document.labels["domain"][0].value][first][second] += 1
    table = CORPUS.successors()
    nats, transitions = 0.0, 0
    for domain, letters in followers.items():
        for first, counts in letters.items():
            allowed = {"abcdefghij"[place] for place in table[int(domain[-1]), "abcdefghij".index(first)]}
            assert set(counts) <= allowed
            total = sum(counts.values())
            nats -= sum(count * math.log(count / total) for count in counts.values())
            transitions += total
    # The measured entropy is a little under ln 4 = 1.386, as it is fitted to the 14,970 transitions it is measured on.
    assert transitions == 30 * 499
    assert math.log(4) - 0.02 < nats / transitions < math.log(4)


def test_the_same_seed_gives_the_same_text_and_another_one_another():
    texts = [document.text for document in CORPUS.documents()]
    assert texts == [document.text for document in CORPUS.documents()]
    assert texts != [document.text for document in CORPUS.model_copy(update={"seed": 2}).documents()]


def test_more_documents_begin_with_the_fewer():
    few = [document.text for document in SyntheticCorpus(num_documents=1024, document_length=20).documents()]
    more = [document.text for document in SyntheticCorpus(num_documents=2048, document_length=20).documents()]
    assert more[:1024] == few
    assert len(set(more)) == 2048


@pytest.mark.parametrize("domains", [[1], [0, 2], [2, 0, 1]])
def test_a_choice_of_domains_is_their_documents_of_the_whole(domains):
    every = list(CORPUS.documents())
    chosen = list(CORPUS.model_copy(update={"domains": domains}).documents())
    expected = [document for number, document in enumerate(every) if number % 3 in domains]
    assert len(chosen) == 10 * len(domains)
    facts = [[(one.text, one.source, one.labels, one.label_key) for one in documents] for documents in (chosen, expected)]
    assert facts[0] == facts[1]


@pytest.mark.parametrize(
    ("domains", "message"), [([4], "there is no domain 4"), ([1, 1], "domain 1 is there twice"), ([], "no domain is named")]
)
def test_domains_that_are_not_there_are_refused(domains, message):
    with pytest.raises(ValidationError, match=message):
        SyntheticCorpus(num_domains=4, domains=domains)


def test_the_chosen_domains_are_told():
    assert "of which domains [1] are read" in CORPUS.model_copy(update={"domains": [1]}).describe()


def test_branching_beyond_the_letters_is_refused():
    with pytest.raises(ValidationError, match="more successors than there are letters"):
        SyntheticCorpus(num_symbols=3, branching=4)
