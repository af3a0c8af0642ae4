"""The audit sees what every configuration declares and accuses no other, leaves the model as it was, and tells a loss out of reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from moecli.errors import DataError
from moecli.evaluation import audit as audit_file
from moecli.evaluation.audit import audit
from moecli.model.config import GPTConfig, MoELayersConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.capacity import CapacityConfig
from moecli.moe.dispatch import dispatch_dropless
from moecli.moe.layers import FeedForwardConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import ExpertChoiceConfig, NoisyTopKConfig, TopKConfig
from moecli.moe.routers.base import token_choice
from tests.moe.test_causality import CONFIGS

VOCAB = 31
ROWS, LENGTH = 4, 20
EXPERT_CHOICE = SparseMoEConfig(num_experts=4, router=ExpertChoiceConfig(pool="sequence"))


def random_gpt(ffn: FeedForwardConfig, causal: bool = True, qk_norm: str = "none") -> GPT:
    """Weights so large that every expert is chosen by some token."""
    config = GPTConfig(d_model=16, num_layers=2, num_heads=2, init_std=0.3, ffn=ffn, causal=causal, qk_norm=qk_norm)
    model = build_gpt(config, VOCAB, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "router" in name:  # noisy_topk begins with zeros, and would choose the same experts for every token
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def random_ids(rows: int = ROWS, length: int = LENGTH) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_model_is_seen_to_leak_what_its_config_declares_and_nothing_else(config, monkeypatch):
    monkeypatch.setattr(audit_file, "MOST_LOSS_POSITIONS", 1)  # here the losses would only cost time
    declared = {leak.sees for leak in config.leaks()}
    result = audit(random_gpt(config), random_ids(), "float32")
    assert (result.leaks_future, result.mixes_rows) == ("future" in declared, "rows" in declared)


def test_a_capacity_that_counts_from_the_length_has_a_gap_though_nothing_leaks():
    # A prefix of 4 tokens gives every expert room for 4 * 1 * 1 / 4 = 1 of them; in the whole window of 20 there is room for 5.
    ffn = SparseMoEConfig(num_experts=4, router=TopKConfig(top_k=1), capacity=CapacityConfig(factor=1.0, eval_factor=1.0))
    result = audit(random_gpt(ffn), random_ids(), "float32")
    assert not result.leaks_future and not result.mixes_rows
    assert abs(result.stepwise_loss - result.teacher_forced_loss) > 1e-2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_a_causal_dropless_model_is_said_to_lose_it_loses_when_generating_too(precision):
    result = audit(random_gpt(SparseMoEConfig(num_experts=4), qk_norm="head"), random_ids(length=150), precision)
    # In bfloat16 numbers have 8 bits: 1 / 256 of a logit of about 1.
    assert result.stepwise_loss == pytest.approx(result.teacher_forced_loss, abs=1e-5 if precision == "float32" else 1e-2)
    assert (result.max_abs_diff_past, result.max_abs_diff_rows) == pytest.approx((0, 0), abs=1e-6)
    assert (result.past_choices_changed, result.row_choices_changed) == (0, 0)


@pytest.mark.parametrize("ffn", [EXPERT_CHOICE, SoftMoEConfig(num_experts=4), SoftMoEConfig(num_experts=4, mixing="batch")])
def test_what_others_give_away_is_missing_when_generating(ffn):
    result = audit(random_gpt(ffn), random_ids(), "float32")
    assert abs(result.stepwise_loss - result.teacher_forced_loss) > 1e-3


def test_the_losses_are_those_of_the_first_and_the_last_sequence():
    model, ids_BS = random_gpt(EXPERT_CHOICE).eval(), random_ids(length=140)
    result = audit(model, ids_BS, "float32")
    with torch.no_grad():
        at_once_BSV = model(ids_BS)[0].log_softmax(dim=-1)
        at_once = [-at_once_BSV[row, step, ids_BS[row, step + 1]] for row in (0, 3) for step in range(128)]
        alone = [
            -model(ids_BS[row, None, : step + 1])[0][0, step].log_softmax(dim=-1)[ids_BS[row, step + 1]]
            for row in (0, 3)
            for step in range(128)
        ]
    assert result.teacher_forced_loss == pytest.approx(sum(at_once).item() / 256, rel=1e-5)
    assert result.stepwise_loss == pytest.approx(sum(alone).item() / 256, rel=1e-5)


class NextTokenPeeker(nn.Module):
    """The layer's output with a thousandth of the next token's features: of the same sequence, or of the next one."""

    def __init__(self, layer: nn.Module, dim: int) -> None:
        super().__init__()
        self.layer, self.dim = layer, dim

    def forward(self, x_BSD, tokens):
        y_BSD, record = self.layer(x_BSD, tokens)
        return y_BSD + 1e-3 * x_BSD.roll(-1, dims=self.dim), record


@pytest.mark.parametrize(("dim", "sees"), [(1, "future"), (0, "rows")])
def test_a_layer_that_peeks_without_saying_so_is_caught(dim, sees):
    model = random_gpt(SparseMoEConfig(num_experts=4))
    model.blocks[1].ffn = NextTokenPeeker(model.blocks[1].ffn, dim)
    result = audit(model, random_ids(), "float32")
    assert (result.leaks_future, result.mixes_rows) == (sees == "future", sees == "rows")
    # The last layer peeks, so that no router sees what it found.
    assert (result.past_choices_changed, result.row_choices_changed) == (0, 0)
    diffs = {"future": result.max_abs_diff_past, "rows": result.max_abs_diff_rows}
    assert 1e-4 < diffs[sees] < 1e-1


class TrainingPeeker(NextTokenPeeker):
    def forward(self, x_BSD, tokens):
        return super().forward(x_BSD, tokens) if self.training else self.layer(x_BSD, tokens)


def test_a_layer_that_peeks_in_training_alone_is_caught():
    model = random_gpt(SparseMoEConfig(num_experts=4))
    model.blocks[0].ffn = TrainingPeeker(model.blocks[0].ffn, dim=1)
    result = audit(model, random_ids(), "float32")
    assert result.leaks_future and not result.mixes_rows
    assert result.stepwise_loss == pytest.approx(result.teacher_forced_loss, abs=1e-5)


class LastTokenRouter(nn.Module):
    """Sends all tokens of a sequence to the expert with the number of its last token; nothing comes back."""

    def forward(self, x_BSD, tokens):
        expert_ids_T1 = tokens.ids_BS[:, -1:].expand_as(tokens.ids_BS).reshape(-1, 1)
        probs_TE = torch.full((len(expert_ids_T1), 2), 0.5)
        routing = token_choice(probs_TE, probs_TE, expert_ids_T1, torch.ones(expert_ids_T1.shape), seq_len=x_BSD.shape[1])
        return torch.zeros_like(x_BSD), dispatch_dropless(routing)[1]


def test_changed_choices_count_and_are_a_leak_although_no_logit_changes():
    model = random_gpt(MLPConfig())
    model.vocab_size = 2  # the other id of two is always known
    model.blocks[0].ffn = LastTokenRouter()
    result = audit(model, random_ids(rows=2, length=4) % 2, "float32")
    # 2 modes, 2 sequences, 1 + 2 + 3 tokens before the three cuts; each leaves one expert and comes to another.
    assert result.past_choices_changed == 2 * 2 * (1 + 2 + 3) * 2
    assert result.leaks_future and result.max_abs_diff_past == pytest.approx(0, abs=1e-12)
    assert (result.mixes_rows, result.row_choices_changed) == (False, 0)


def test_a_bidirectional_model_sees_its_future_and_has_no_steps():
    result = audit(random_gpt(SparseMoEConfig(num_experts=4), causal=False), random_ids(), "float32")
    assert result.leaks_future and result.mixes_rows is False
    assert result.teacher_forced_loss is None and result.stepwise_loss is None


def test_one_sequence_can_tell_nothing_of_others():
    result = audit(random_gpt(EXPERT_CHOICE), random_ids(rows=1), "float32")
    assert result.leaks_future
    assert (result.mixes_rows, result.max_abs_diff_rows, result.row_choices_changed) == (None, None, None)


def test_a_window_of_one_token_is_refused_and_two_are_enough():
    model = random_gpt(EXPERT_CHOICE)
    with pytest.raises(DataError, match="2 tokens or more"):
        audit(model, random_ids(length=1), "float32")
    assert audit(model, random_ids(length=2), "float32").teacher_forced_loss > 0


@pytest.mark.parametrize("training", [False, True])
def test_an_audit_changes_nothing_and_says_the_same_again(training):
    model = random_gpt(SparseMoEConfig(num_experts=4, router=NoisyTopKConfig())).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    first = audit(model, random_ids(), "float32")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.manual_seed(99)
    assert audit(model, random_ids(), "float32") == first


def test_a_leak_of_a_barely_trained_model_is_seen():
    # DeepSeek's small initial weights, and a soft layer at the end alone, which chooses nothing: the logits of the past move by 1e-5.
    config = GPTConfig(
        d_model=64, num_layers=4, init_std=0.006, ffn=SoftMoEConfig(num_experts=4, d_expert=64), moe_layers=MoELayersConfig(indices=[3])
    )
    result = audit(build_gpt(config, VOCAB, seed=0), random_ids(), "float32")
    assert result.leaks_future and not result.mixes_rows
    assert 0 < result.max_abs_diff_past < 1e-4 and result.max_abs_diff_rows == pytest.approx(0, abs=1e-9)
