"""A tiny split of tokens to train on, without files or tokenizers."""

from __future__ import annotations

import numpy as np
import pytest

from moecli.data.token_split import TokenSplit

VOCAB = 32


@pytest.fixture
def split() -> TokenSplit:
    ids = np.random.default_rng(0).integers(0, VOCAB, 600, dtype=np.uint16)
    return TokenSplit(ids=ids, labels={}, label_names={}, num_bytes=1200, num_documents=3, name="train")
