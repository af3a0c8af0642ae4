"""Token ids as people read them: names of tokens, and the text whose tokens are coloured by their experts.

Knows tokenizers and samples. Must not know models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moecli.analysis.sample import RoutingSample
from moecli.data.tokenizer import Tokenizer

# Of the text view. Documents shorter than that show little; they are taken where there are no others.
MOST_DOCUMENTS, TOKENS_PER_DOCUMENT, SHORT_DOCUMENT = 4, 300, 100


def name_tokens(vocabulary: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """One layer's vocabulary with the text of each token beside its id."""
    return vocabulary | {"top": [{"token": tokenizer.token_text(token["id"])} | token for token in vocabulary["top"]]}


def text_view(sample: RoutingSample, tokenizer: Tokenizer) -> dict[str, Any]:
    """The beginning of a few documents of the sample, from its first to its last, with each token's first expert in every layer."""
    _, starts, lengths = np.unique(sample.documents_N, return_index=True, return_counts=True)
    is_long = lengths >= min(SHORT_DOCUMENT, lengths.max())
    spread = np.linspace(0, is_long.sum() - 1, MOST_DOCUMENTS).round().astype(int)
    chosen = np.flatnonzero(is_long)[np.unique(spread)]
    sequences = []
    for start, length in zip(starts[chosen], lengths[chosen], strict=True):
        part = slice(int(start), int(start + min(length, TOKENS_PER_DOCUMENT)))
        firsts = [experts_NK[part, 0] for experts_NK in sample.experts.values()]
        sequences.append({"tokens": tokenizer.pieces(sample.ids_N[part].tolist()), "experts": np.stack(firsts, axis=1).tolist()})
    return {"layers": list(sample.experts), "sequences": sequences}
