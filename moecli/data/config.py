"""The `data` part of a recipe.

Knows corpora and tokenizers by their tables. Must not know models, training or how data is prepared.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

from moecli.config import Config, OneOf, PositiveInt
from moecli.data.corpora import CORPORA, Corpus, StdlibCorpus
from moecli.data.tokenizer_config import TOKENIZERS, BPETokenizerConfig, TokenizerConfig


class DataConfig(Config):
    """Which text, cut into which tokens, split how."""

    corpus: Annotated[Corpus, OneOf(CORPORA, default="stdlib")] = StdlibCorpus()
    """Where the text comes from."""
    tokenizer: Annotated[TokenizerConfig, OneOf(TOKENIZERS, default="bpe")] = BPETokenizerConfig()
    """How text becomes ids."""
    seq_len: PositiveInt = 256
    """Tokens per sequence."""
    validation_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    """Share of the characters that is held out for validation, in whole documents."""
    validation_max_bytes: PositiveInt | None = 250_000
    """UTF-8 bytes that validation takes at most, so that it stays quick on a large corpus; null for no limit."""
    cache_dir: str | None = None
    """Folder of the cache of ids. Default: $MOECLI_CACHE, else $XDG_CACHE_HOME/moecli, else ~/.cache/moecli."""
