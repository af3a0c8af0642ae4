"""Numbers that look random and are always the same: of a token id, and of all ids of a sequence up to a token.

Knows ids alone. Must not know what is drawn with the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moecli.moe.routing import Prefix, Tokens

# Multipliers of the splitmix64 generator (Steele et al. 2014), as signed 64-bit numbers.
_MIX_1, _MIX_2, _STEP = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15, -0x61C8864680B583EB


def mixed_bits(keys_T: Tensor, num_experts: int, seed: int) -> Tensor:
    """int64 [T, E]: for each (key, expert, seed) a number that looks random and is always the same (splitmix64's finaliser)."""
    experts_E = torch.arange(num_experts, device=keys_T.device)
    state_TE = ((keys_T[:, None] * num_experts + experts_E) + (seed << 32)) * _STEP
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        state_TE = (state_TE ^ _shifted_right(state_TE, shift)) * factor
    return state_TE ^ _shifted_right(state_TE, 31)


def prefix_bits(tokens: Tokens) -> Tensor:
    """int64 [B, S]: a number that looks random for each sequence of ids up to a token; without the padding, which nobody sees.

    The sum of one number for each (id, position), where positions count from the sequence's first token that is no padding. So what came
    in earlier passes is one number too.
    """
    positions_BS = _num_tokens_up_to(tokens) - 1
    bits_BS = mixed_bits((tokens.ids_BS + (positions_BS << 32)).flatten(), 1, 0).view_as(tokens.ids_BS)
    if tokens.is_padding_BS is not None:
        bits_BS = bits_BS.masked_fill(tokens.is_padding_BS, 0)
    bits_BS = bits_BS.cumsum(dim=1)  # sums wrap around
    return bits_BS if tokens.before is None else bits_BS + tokens.before.bits_B[:, None]


def prefix_after(tokens: Tokens) -> Prefix:
    """What the tokens of the next pass have before them."""
    return Prefix(num_tokens_B=_num_tokens_up_to(tokens)[:, -1], bits_B=prefix_bits(tokens)[:, -1])


def _num_tokens_up_to(tokens: Tokens) -> Tensor:
    """int64 [B, S]: tokens of the sequence up to each, itself included, without padding."""
    is_token_BS = torch.ones_like(tokens.ids_BS, dtype=torch.bool) if tokens.is_padding_BS is None else ~tokens.is_padding_BS
    num_BS = is_token_BS.cumsum(dim=1)
    return num_BS if tokens.before is None else num_BS + tokens.before.num_tokens_B[:, None]


def _shifted_right(state: Tensor, bits: int) -> Tensor:
    """The logical shift: torch's own carries the sign along."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
