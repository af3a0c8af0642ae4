"""The corpora by name. A new corpus is a file here and a line in CORPORA; recipe and tests follow from the table."""

from __future__ import annotations

from moecli.data.corpora.base import Corpus
from moecli.data.corpora.files import FilesCorpus
from moecli.data.corpora.hub import HubCorpus
from moecli.data.corpora.stdlib import StdlibCorpus
from moecli.data.corpora.synthetic import SyntheticCorpus

CORPORA: dict[str, type[Corpus]] = {
    "stdlib": StdlibCorpus,
    "synthetic": SyntheticCorpus,
    "files": FilesCorpus,
    "hub": HubCorpus,
}

__all__ = ["CORPORA", "Corpus", "FilesCorpus", "HubCorpus", "StdlibCorpus", "SyntheticCorpus"]
