"""Soft MoE: experts work on mixtures of tokens instead of tokens, so nothing is chosen and nothing dropped.

Knows the two published mixings, over a sequence and over a batch. Must not know routers: there is no choice to make.
Shape letters: see routing.py.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from moecli.config import PositiveInt
from moecli.errors import FieldProblem
from moecli.moe.activations import ActivationName
from moecli.moe.causality import Leak
from moecli.moe.dense import record_of_all
from moecli.moe.experts import Experts
from moecli.moe.feed_forward import FeedForward, FeedForwardConfig
from moecli.moe.routing import RoutingRecord, Tokens

# Added to the sum of squares before its root is taken.
NORM_EPS = 1e-6


class SoftMoEConfig(FeedForwardConfig):
    """Experts on mixtures of tokens: of a sequence (Soft MoE), or of the same position of several sequences (Mixture of Tokens)."""

    kind: Literal["soft"] = "soft"
    num_experts: PositiveInt = 8
    """Experts per layer."""
    d_expert: PositiveInt | None = None
    """Hidden width of one expert. Default: 4 * d_model."""
    mixing: Literal["sequence", "batch"] = "sequence"
    """What is mixed: all tokens of a sequence, which is not causal, or the same position of the sequences of a group."""
    slots_per_expert: PositiveInt | None = None
    """With mixing: sequence, how many mixtures of a sequence each expert works on. Default: 1."""
    group_size: PositiveInt | None = None
    """With mixing: batch, how many sequences are mixed; each expert works on one mixture of a group. Default: num_experts."""

    @property
    def mixes_by_weights(self) -> bool:
        return True

    def with_default_widths(self, d_model: int) -> SoftMoEConfig:
        sizes = {"slots_per_expert": self.slots_per_expert or 1} if self.mixing == "sequence" else {"group_size": self._group_size}
        return self.model_copy(update={"d_expert": self.d_expert or 4 * d_model} | sizes)

    @property
    def _group_size(self) -> int:
        return self.group_size or self.num_experts

    def leaks(self) -> list[Leak]:
        if self.mixing == "sequence":
            why = "every expert works on mixtures of the whole sequence"
            return [Leak("future", "mixing", why, "mixing: batch (Mixture of Tokens), or kind: sparse")]
        if self._group_size == 1:
            return []
        return [Leak("rows", "mixing", "every expert works on mixtures of the sequences of a batch", "kind: sparse")]

    def problems(self) -> list[FieldProblem]:
        if self.mixing == "sequence" and self.group_size is not None:
            what = "groups of sequences are mixed over the batch alone"
            return [FieldProblem("group_size", what, allowed="null, or mixing: batch", involves=("mixing",))]
        if self.mixing == "batch" and self.slots_per_expert is not None:
            what = "slots hold mixtures of a sequence"
            return [FieldProblem("slots_per_expert", what, allowed="null, or mixing: sequence", involves=("mixing",))]
        return []

    def problems_with_batches(self, sizes: dict[str, int], seq_len: int) -> list[FieldProblem]:
        undivided = [f"{key} ({size})" for key, size in sizes.items() if size % self._group_size]
        if self.mixing == "sequence" or not undivided:
            return []
        what = f"groups of {self._group_size} sequences don't divide {' and '.join(undivided)}"
        allowed = f"a divisor of {math.gcd(*sizes.values())}; the default is num_experts"
        return [FieldProblem("group_size", what, allowed=allowed, involves=("num_experts",))]


class SoftMoE(FeedForward):
    """Every expert works on weighted means of tokens, and every token gets a weighted sum of what comes out.

    In the record every expert works for every token. Its logits are detached: neither method has a router loss.
    """

    config_class = SoftMoEConfig

    def __init__(self, config: SoftMoEConfig, d_model: int, activation: ActivationName) -> None:
        super().__init__()
        assert config.d_expert is not None
        self.experts = Experts(config.num_experts, d_model, config.d_expert, activation)
        if config.mixing == "sequence":
            assert config.slots_per_expert is not None
            self.mixer: SequenceMixer | BatchMixer = SequenceMixer(config.num_experts, config.slots_per_expert, d_model)
        else:
            assert config.group_size is not None
            self.mixer = BatchMixer(config.num_experts, config.group_size, d_model)

    @property
    def expert_outputs(self) -> tuple[Tensor, ...]:
        return (self.experts.out_proj,)

    def forward_flops_per_token(self, seq_len: int) -> float:
        mixtures_per_token = self.mixer.mixtures_per_token(seq_len)
        return 2 * mixtures_per_token * self.experts.params_per_expert + self.mixer.flops_per_token

    def init_weights(self, generator: Generator) -> None:
        self.mixer.init_weights(generator)

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> tuple[Tensor, RoutingRecord]:
        return self.mixer(x_BSD, tokens, self.experts)


class SequenceMixer(nn.Module):
    """Soft MoE (arXiv 2308.00951, section 2.1): slots are means over the tokens of a sequence, softmax(x phi) over tokens;
    a token's output is softmax(x phi) over all slots, of the slots' outputs.

    For the logits, x and phi are scaled to length 1, phi then by a learned number (section 2.3); the tokens that are mixed are x as it is.
    """

    def __init__(self, num_experts: int, slots_per_expert: int, d_model: int) -> None:
        super().__init__()
        self.slot_weight = nn.Parameter(torch.empty(num_experts, slots_per_expert, d_model))
        self.scale = nn.Parameter(torch.empty(1))

    @property
    def flops_per_token(self) -> float:
        """Logits, mixing in and mixing out: three products with all slots."""
        return 3 * 2 * self.slot_weight.numel()

    @property
    def kept_floats_per_token(self) -> int:
        """What autograd keeps beside the mixtures: x for its length and scaled by it, and the weights in and out."""
        num_experts, slots_per_expert, d_model = self.slot_weight.shape
        return 2 * d_model + 2 * num_experts * slots_per_expert

    def mixtures_per_token(self, seq_len: int) -> float:
        num_experts, slots_per_expert, _ = self.slot_weight.shape
        return num_experts * slots_per_expert / seq_len

    def init_weights(self, generator: Generator) -> None:
        # LeCun normal: fan-in is the model's width.
        nn.init.normal_(self.slot_weight, std=self.slot_weight.shape[-1] ** -0.5, generator=generator)
        nn.init.ones_(self.scale)

    def forward(self, x_BSD: Tensor, tokens: Tokens | None, experts: Experts) -> tuple[Tensor, RoutingRecord]:
        batch_size, seq_len, _ = x_BSD.shape
        num_experts, slots_per_expert, _ = self.slot_weight.shape
        logits_BSN = self._logits(x_BSD)  # N = E * P slots
        into_BSN = _without(logits_BSN, _padding_BS(tokens)).softmax(dim=1)
        out_of_BSN = logits_BSN.softmax(dim=-1)
        slots_BND = into_BSN.transpose(1, 2).to(x_BSD.dtype) @ x_BSD
        slots_END = slots_BND.unflatten(1, (num_experts, slots_per_expert)).transpose(0, 1).flatten(1, 2)
        out_END = experts.forward_own(slots_END)
        out_BND = out_END.unflatten(1, (batch_size, slots_per_expert)).transpose(0, 1).flatten(1, 2)
        y_BSD = out_of_BSN.to(out_BND.dtype) @ out_BND
        by_expert_TEP = logits_BSN.detach().flatten(0, 1).unflatten(-1, (num_experts, slots_per_expert))
        probs_TE = out_of_BSN.detach().view_as(by_expert_TEP).sum(dim=-1)
        return y_BSD, record_of_all(by_expert_TEP.logsumexp(dim=-1), probs_TE, probs_TE, seq_len, tokens)

    def _logits(self, x_BSD: Tensor) -> Tensor:
        """float32 [B, S, E * P], whatever autocast says."""
        with torch.autocast(device_type=x_BSD.device.type, enabled=False):
            phi_ND = self.scale.float() * _unit_length(self.slot_weight.flatten(0, 1).float())
            return F.linear(_unit_length(x_BSD.float()), phi_ND)


class BatchMixer(nn.Module):
    """Mixture of Tokens (arXiv 2310.15961, section 3): expert e works on sum_g m_ge x_g, with m_:e = softmax over the group of x w_e,
    and token g gets sum_e m_ge Expert_e(mixture).

    A group is the same position of `group_size` sequences, so no token sees its future. Departure: where the last sequences of a batch
    don't fill a group, as a single one in generation, they fill it as often as it takes, so that weights and outputs keep their size.
    """

    def __init__(self, num_experts: int, group_size: int, d_model: int) -> None:
        super().__init__()
        self.group_size = group_size
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))

    @property
    def flops_per_token(self) -> float:
        """Logits, mixing in and mixing out: three products with all experts."""
        return 3 * 2 * self.weight.numel()

    @property
    def kept_floats_per_token(self) -> int:
        """What autograd keeps beside the mixtures: x in the order of the groups, and the weights."""
        return self.weight.shape[1] + self.weight.shape[0]

    def mixtures_per_token(self, seq_len: int) -> float:
        return self.weight.shape[0] / self.group_size

    def init_weights(self, generator: Generator) -> None:
        """Begins as the rest of the model does."""

    def forward(self, x_BSD: Tensor, tokens: Tokens | None, experts: Experts) -> tuple[Tensor, RoutingRecord]:
        batch_size, seq_len, _ = x_BSD.shape
        rows_N = self._rows_in_whole_groups(batch_size, x_BSD.device)
        with torch.autocast(device_type=x_BSD.device.type, enabled=False):
            logits_BSE = F.linear(x_BSD.float(), self.weight.float())
        present_BSE = _without(logits_BSE, _padding_BS(tokens))
        log_weights_GNSE = present_BSE[rows_N].unflatten(0, (-1, self.group_size)).log_softmax(dim=1)  # N = sequences of a group
        weights_GNSE = log_weights_GNSE.exp()
        x_GNSD = x_BSD[rows_N].unflatten(0, (-1, self.group_size))
        mixed_EGSD = torch.einsum("gnse,gnsd->egsd", weights_GNSE.to(x_BSD.dtype), x_GNSD)
        out_END = experts.forward_own(mixed_EGSD.flatten(1, 2))
        out_EGSD = out_END.unflatten(1, (-1, seq_len))
        y_BSD = torch.einsum("gnse,egsd->gnsd", weights_GNSE.to(out_EGSD.dtype), out_EGSD).flatten(0, 1)[:batch_size]
        log_weights_TE = log_weights_GNSE.detach().flatten(0, 1)[:batch_size].flatten(0, 1)
        # A token's weights need not sum to 1 over the experts; as a distribution they are divided by their sum. (All may round to 0.)
        weights_TE, probs_TE = log_weights_TE.exp(), log_weights_TE.softmax(dim=-1)
        return y_BSD, record_of_all(logits_BSE.detach().flatten(0, 1), probs_TE, weights_TE, seq_len, tokens)

    def _rows_in_whole_groups(self, batch_size: int, device: torch.device) -> Tensor:
        """int64: every sequence once, then those of the last group again until it is full."""
        rows_N = torch.arange(batch_size + -batch_size % self.group_size, device=device)
        num_left = batch_size % self.group_size
        first_left = batch_size - num_left
        return torch.where(rows_N < batch_size, rows_N, first_left + (rows_N - first_left) % max(1, num_left))


def _padding_BS(tokens: Tokens | None) -> Tensor | None:
    return None if tokens is None else tokens.is_padding_BS


def _without(logits: Tensor, is_absent_BS: Tensor | None) -> Tensor:
    """The logits with absent tokens so low that a softmax over tokens gives them nothing. (Finite: all may be absent.)"""
    return logits if is_absent_BS is None else logits.masked_fill(is_absent_BS[..., None], torch.finfo(logits.dtype).min)


def _unit_length(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + NORM_EPS)
