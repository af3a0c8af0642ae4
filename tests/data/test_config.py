"""The data part of a recipe: its defaults, and the tables behind it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moecli.data.config import DataConfig
from moecli.data.corpora import CORPORA
from moecli.data.tokenizer_config import TOKENIZERS


def test_defaults():
    config = DataConfig()
    assert (config.corpus.kind, config.corpus.max_bytes) == ("stdlib", 4_000_000)
    assert (config.tokenizer.kind, config.tokenizer.vocab_size) == ("bpe", 1024)
    assert (config.seq_len, config.validation_fraction, config.validation_max_bytes) == (256, 0.05, 250_000)


def test_kinds_may_be_left_out_for_the_defaults():
    config = DataConfig.model_validate({"corpus": {"max_bytes": 300_000}, "tokenizer": {"vocab_size": 300}})
    assert (config.corpus.max_bytes, config.tokenizer.vocab_size) == (300_000, 300)


@pytest.mark.parametrize("kind", CORPORA)
def test_every_corpus_can_be_chosen(kind):
    options = {"files": {"paths": ["a"]}, "hub": {"path": "a"}}.get(kind, {})
    assert type(DataConfig.model_validate({"corpus": {"kind": kind, **options}}).corpus) is CORPORA[kind]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_tokenizer_can_be_chosen(kind):
    options = {"path": "a"} if kind == "file" else {}
    assert type(DataConfig.model_validate({"tokenizer": {"kind": kind, **options}}).tokenizer) is TOKENIZERS[kind]


@pytest.mark.parametrize(
    "wrong",
    [
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"validation_max_bytes": 0},
        {"seq_len": 0},
        {"corpus": {"kind": "files", "paths": []}},
        {"corpus": {"kind": "unknown"}},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        DataConfig.model_validate(wrong)
