"""What is said before the figures of a comparison: of times that do not match, and of the text."""

from __future__ import annotations

import pytest

from moecli.data.corpora import StdlibCorpus
from moecli.data.corpora.files import FilesCorpus
from moecli.workflows.compare_content import corpus_in_short
from moecli.workflows.compare_notes import time_match_notes


@pytest.mark.parametrize(
    ("mismatch", "words"),
    [(0.0499, None), (-0.0499, None), (0.0561, "5.6% more time"), (-0.123, "12.3% less time")],
)
def test_a_match_in_time_that_is_far_off_is_told(mismatch, words):
    matches = [
        {"match": "active", "arm": "dense-active", "mismatch": 0.3},
        {"match": "time", "arm": "dense-time", "mismatch": mismatch},
    ]
    said = [] if words is None else [f"dense-time was to train for as long as moe, and took {words}"]
    assert time_match_notes(matches, "moe") == said


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["a.txt"], "files a.txt"),
        (["a.txt", "b/*.md", "c.csv"], "files a.txt, b/*.md, c.csv"),
        (["a.txt", "b/*.md", "c.csv", "d", "e"], "files a.txt, b/*.md, c.csv and 2 more"),
    ],
)
def test_a_corpus_of_files_is_told_with_its_paths(paths, words):
    assert corpus_in_short(FilesCorpus(paths=paths)) == words


def test_other_corpora_are_told_by_their_kind():
    assert corpus_in_short(StdlibCorpus()) == "stdlib"
