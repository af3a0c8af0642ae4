"""What every router is, and what all routers share in which tokens choose experts.

Knows the contract (routing.py). Must not know dispatch, experts, losses or training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from moecli.config import KindConfig, PositiveInt
from moecli.errors import FieldProblem
from moecli.moe.causality import Leak
from moecli.moe.routing import Routing, Tokens
from moecli.moe.weight_sum import WeightSum


class RouterConfig(KindConfig):
    """Base of the router configs."""

    fixes_load: ClassVar[bool] = False
    """Whether every expert gets the same number of tokens by construction, so that a capacity has nothing to limit."""

    learns: ClassVar[bool] = True
    """Whether there is anything to learn."""
    weighs_evenly: ClassVar[bool] = False
    """Whether all weights are the same."""
    goes_by_prefix: ClassVar[bool] = False
    """Whether in evaluation the ids before a token decide its experts, so that a cache has to keep them in mind."""

    @property
    def has_selection_bias(self) -> bool:
        """Whether the router has a bias that the loss-free update can move."""
        return False

    def estimates_load(self, num_experts: int) -> bool:
        """Whether training fills `Routing.smooth_load_TE`, which the load loss needs."""
        return False

    def weight_sum(self, num_experts: int) -> WeightSum:
        """What a token's weights add up to."""
        return WeightSum(1.0)

    def leaks(self, num_experts: int) -> list[Leak]:
        """How this router lets a token see the future or other rows; empty where it decides for each token by itself."""
        return []

    def problems_with(self, num_experts: int) -> list[FieldProblem]:
        """The rules between this router and the number of experts that are broken."""
        return []

    def learning_problems_with(self, num_experts: int) -> list[FieldProblem]:
        """The same for rules without which the router runs, but would learn nothing."""
        return []

    def problems_with_batches(self, sizes: dict[str, int], seq_len: int, num_experts: int) -> list[FieldProblem]:
        """The rules between this router and what goes through the model at once that are broken; see FeedForwardConfig."""
        return []


class TokenChoiceConfig(RouterConfig):
    """Base of the routers in which each token chooses `top_k` experts."""

    top_k: PositiveInt = 2
    """Experts per token."""

    def problems_with(self, num_experts: int) -> list[FieldProblem]:
        if self.top_k <= num_experts:
            return []
        what = f"more experts per token than there are experts ({num_experts})"
        return [FieldProblem("top_k", what, allowed=f"1 to num_experts ({num_experts})")]


class ScoredChoiceConfig(TokenChoiceConfig):
    """Base of the token-choice routers whose weights are the scores of the chosen experts."""

    normalize_weights: bool | None = None
    """Divide the chosen scores by their sum, as Mixtral does; Switch, OLMoE and Qwen1.5-MoE don't. Default: true for top_k > 1."""

    def model_post_init(self, context: Any, /) -> None:
        if self.normalize_weights is None:
            object.__setattr__(self, "normalize_weights", self.top_k > 1)
        super().model_post_init(context)

    def problems(self) -> list[FieldProblem]:
        if self.top_k > 1 or not self.normalize_weights:
            return []
        what = "with top_k 1 every weight would be 1, and the router would learn nothing from the language-model loss"
        return [FieldProblem("normalize_weights", what, allowed="false with top_k 1", involves=("top_k",))]


class Router(nn.Module, ABC):
    """Scores the experts for each token and chooses. Built from (config, d_model, num_experts)."""

    config_class: ClassVar[type[RouterConfig]]
    kept_floats_per_expert: ClassVar[int] = 2
    """[T, E] tensors that autograd keeps: the logits for the z-loss, and the probabilities."""
    selection_bias_E: Tensor | None
    """float32 buffer, added to the scores for the choice alone; moved by balancing.py, never by a gradient. None: this router has none."""

    def __init__(self, config: RouterConfig, d_model: int, num_experts: int) -> None:
        super().__init__()
        self.register_buffer("selection_bias_E", None)

    @property
    @abstractmethod
    def assignments_per_token(self) -> float:
        """How many experts a token gets on average, before drops: A / T."""

    def init_weights(self, generator: Generator) -> None:
        """Sets the weights that don't begin as the rest of the model's do; called after those."""

    @abstractmethod
    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        """Routes the tokens. `tokens` may be left out by callers without padding, if the router does not go by token ids."""


class TokenChoiceRouter(Router):
    """Base of the routers in which each token chooses `top_k` experts."""

    config: TokenChoiceConfig

    def __init__(self, config: TokenChoiceConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.config = config

    @property
    def assignments_per_token(self) -> float:
        return self.config.top_k


def float32_logits(x_BSD: Tensor, weight_ED: Tensor) -> Tensor:
    """Router logits [T, E] in float32 whatever autocast says: Switch's selective precision (arXiv 2101.03961, section 2.4)."""
    x_TD = x_BSD.flatten(0, -2)
    if not torch.is_autocast_enabled(x_TD.device.type):  # of a single token, the context costs as much as the product
        return F.linear(x_TD.float(), weight_ED.float())
    with torch.autocast(device_type=x_TD.device.type, enabled=False):
        return F.linear(x_TD.float(), weight_ED.float())


def normalized(weights_TK: Tensor) -> Tensor:
    """Weights that sum to 1 over a token's choices."""
    return weights_TK / weights_TK.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights_TK.dtype).tiny)


def token_choice(
    logits_TE: Tensor,
    probs_TE: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    *,
    seq_len: int,
    tokens: Tokens | None = None,
    is_kept_TK: Tensor | None = None,
    smooth_load_TE: Tensor | None = None,
) -> Routing:
    """The Routing of tokens that choose experts, best first. Choices that are not kept, and those of padding, are left out of the list."""
    num_tokens, top_k = expert_ids_TK.shape
    device = expert_ids_TK.device
    lists_A = (
        torch.arange(num_tokens, device=device)[:, None].expand(-1, top_k).flatten(),
        expert_ids_TK.flatten(),
        weights_TK.flatten(),
        torch.arange(top_k, device=device).expand(num_tokens, -1).flatten(),
    )
    is_padding_T = padding_of(tokens)
    if is_padding_T is not None:
        is_token_T1 = ~is_padding_T[:, None]
        is_kept_TK = is_token_T1.expand(-1, top_k) if is_kept_TK is None else is_kept_TK & is_token_T1
    if is_kept_TK is not None:
        lists_A = tuple(list_A[is_kept_TK.flatten()] for list_A in lists_A)  # type: ignore[assignment]
    token_ids_A, expert_ids_A, weights_A, choices_A = lists_A
    return Routing(
        logits_TE,
        probs_TE,
        token_ids_A,
        expert_ids_A,
        weights_A,
        choices_A,
        top_k,
        seq_len,
        smooth_load_TE,
        is_padding_T,
        has_all_choices=is_kept_TK is None,
    )


def padding_of(tokens: Tokens | None) -> Tensor | None:
    """Which of the T tokens are padding."""
    return None if tokens is None or tokens.is_padding_BS is None else tokens.is_padding_BS.flatten()
