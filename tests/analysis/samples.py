"""Routing samples from lists written by hand, and random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from moecli.analysis.sample import RoutingSample


def sample_of(
    experts: Mapping[int, Sequence[Sequence[int]] | np.ndarray],
    num_experts: int | Mapping[int, int],
    *,
    ids: Sequence[int] | None = None,
    follows: Sequence[bool] | None = None,
) -> RoutingSample:
    """One document without labels; unless told otherwise one sequence of tokens 0, 1, 2, ...

    Args:
        experts: from the layer to a list of experts per token, all lists of a layer of one length; -1 is none.
        num_experts: of all layers, or from the layer to its number.
        ids: of the tokens.
        follows: as in RoutingSample.
    """
    num_tokens = len(next(iter(experts.values())))
    return RoutingSample(
        ids_N=np.array(range(num_tokens) if ids is None else ids, dtype=np.int64),
        positions_N=np.arange(num_tokens),
        documents_N=np.zeros(num_tokens, dtype=np.int64),
        follows_N=np.arange(num_tokens) > 0 if follows is None else np.array(follows, dtype=bool),
        labels={},
        label_names={},
        experts={layer: np.array(experts_NK, dtype=np.int16) for layer, experts_NK in experts.items()},
        num_experts={layer: num_experts if isinstance(num_experts, int) else num_experts[layer] for layer in experts},
        num_tokens_seen=num_tokens,
    )


@st.composite
def layers(draw: st.DrawFn, num_tokens: int, num_experts: int, most_choices: int = 3) -> list[list[int]]:
    """The experts of every token in one layer: all different, and here and there none."""
    num_choices = draw(st.integers(1, min(num_experts, most_choices)))
    tokens = []
    for _ in range(num_tokens):
        experts = draw(st.permutations(range(num_experts)))[:num_choices]
        is_kept = draw(st.lists(st.booleans() | st.just(True), min_size=num_choices, max_size=num_choices))
        tokens.append([expert if kept else -1 for expert, kept in zip(experts, is_kept, strict=True)])
    return tokens


@st.composite
def samples(draw: st.DrawFn, most_layers: int = 3) -> RoutingSample:
    """A few tokens and layers of different sizes."""
    num_tokens = draw(st.integers(1, 8))
    num_experts = dict(enumerate(draw(st.lists(st.integers(1, 5), min_size=1, max_size=most_layers))))
    experts = {layer: draw(layers(num_tokens, size)) for layer, size in num_experts.items()}
    follows = draw(st.lists(st.booleans(), min_size=num_tokens, max_size=num_tokens))
    return sample_of(experts, num_experts, follows=[False, *follows[1:]])


def random_routing(rng: np.random.Generator, num_tokens: int, load: Sequence[float], top_k: int) -> np.ndarray:
    """[N, K]: every token draws top_k experts by this load, and again until all are different. No pair is drawn for being a pair."""
    share_E = np.array(load) / np.sum(load)
    kept = np.empty((0, top_k), dtype=np.int64)
    while len(kept) < num_tokens:
        drawn = rng.choice(len(share_E), size=(4 * num_tokens, top_k), p=share_E)
        in_order = np.sort(drawn, axis=1)
        kept = np.concatenate([kept, drawn[(in_order[:, 1:] != in_order[:, :-1]).all(axis=1)]])
    return kept[:num_tokens]
