"""Soft MoE and Mixture of Tokens against loops straight from their equations, by hand, and where they become something simpler."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from moecli.moe.activations import ACTIVATIONS
from moecli.moe.layers import SoftMoE, SoftMoEConfig
from moecli.moe.routing import Tokens
from tests.moe.oracle import expert_output

D_MODEL, D_EXPERT = 7, 3  # no multiples of anything
MIXINGS = ["sequence", "batch"]


def build(config: SoftMoEConfig, d_model: int = D_MODEL, activation="swiglu", seed: int = 0) -> SoftMoE:
    layer = SoftMoE(config.with_default_widths(d_model), d_model, activation)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    return layer


def soft(mixing: str, num_experts: int = 3, **options) -> SoftMoEConfig:
    return SoftMoEConfig(num_experts=num_experts, d_expert=options.pop("d_expert", D_EXPERT), mixing=mixing, **options)


def inputs(batch_size: int, seq_len: int, d_model: int = D_MODEL, seed: int = 1) -> Tensor:
    return torch.randn(batch_size, seq_len, d_model, generator=torch.Generator().manual_seed(seed))


def padded(is_padding: list[list[int]]) -> Tokens:
    is_padding_BS = torch.tensor(is_padding, dtype=torch.bool)
    return Tokens(torch.zeros(is_padding_BS.shape, dtype=torch.int64), is_padding_BS)


def softmax(logits: list[Tensor]) -> list[Tensor]:
    exps = [torch.exp(logit) for logit in logits]
    return [value / sum(exps) for value in exps]


def expert_of(layer: SoftMoE, activation: str, expert: int, x_D: Tensor) -> Tensor:
    return expert_output(activation, x_D, layer.experts.in_proj[expert], layer.experts.out_proj[expert])


def soft_moe_by_loops(layer: SoftMoE, activation: str, x_BSD: Tensor, is_padding_BS: Tensor | None = None) -> Tensor:
    """arXiv 2308.00951, eq. 1-3: D = softmax over tokens, slots = D^T X, C = softmax over slots, Y = C Expert(slots)."""
    slot_weight, scale = layer.mixer.slot_weight, layer.mixer.scale
    slots = [(expert, slot) for expert in range(slot_weight.shape[0]) for slot in range(slot_weight.shape[1])]
    rows = []
    for row, x_SD in enumerate(x_BSD):
        real = [s for s in range(len(x_SD)) if is_padding_BS is None or not is_padding_BS[row, s]]
        logits = {}
        for s, x_D in enumerate(x_SD):
            for expert, slot in slots:
                phi_D = slot_weight[expert, slot]
                cosine = (x_D @ phi_D) / (((x_D @ x_D) + 1e-6) ** 0.5 * ((phi_D @ phi_D) + 1e-6) ** 0.5)
                logits[s, expert, slot] = scale[0] * cosine
        outputs = []
        for expert, slot in slots:
            into = softmax([logits[s, expert, slot] for s in real])
            mixture_D = sum(weight * x_SD[s] for weight, s in zip(into, real, strict=True))
            outputs.append(expert_of(layer, activation, expert, mixture_D))
        for s in range(len(x_SD)):
            out_of = softmax([logits[s, expert, slot] for expert, slot in slots])
            rows.append(sum(weight * output_D for weight, output_D in zip(out_of, outputs, strict=True)))
    return torch.stack(rows).view_as(x_BSD)


def mixture_of_tokens_by_loops(layer: SoftMoE, activation: str, x_BSD: Tensor, is_padding_BS: Tensor | None = None) -> Tensor:
    """arXiv 2310.15961, section 3: each expert on the mean of a group, weighted by softmax over the group, and back by the same weights.

    Sequences that are too few for a group are in it more than once.
    """
    batch_size, seq_len, _ = x_BSD.shape
    weight_ED, group_size = layer.mixer.weight, layer.mixer.group_size
    y = {(row, s): torch.zeros(x_BSD.shape[-1]) for row in range(batch_size) for s in range(seq_len)}
    for first in range(0, batch_size, group_size):
        for s in range(seq_len):
            rows = list(range(first, min(first + group_size, batch_size)))
            filled = [rows[place % len(rows)] for place in range(group_size)]
            group = [row for row in filled if is_padding_BS is None or not is_padding_BS[row, s]]
            if not group:
                continue
            for expert in range(weight_ED.shape[0]):
                weights = softmax([weight_ED[expert] @ x_BSD[row, s] for row in group])
                mixture_D = sum(weight * x_BSD[row, s] for weight, row in zip(weights, group, strict=True))
                output_D = expert_of(layer, activation, expert, mixture_D)
                for row, weight in dict(zip(group, weights, strict=True)).items():
                    y[row, s] = y[row, s] + weight * output_D
    return torch.stack([y[row, s] for row in range(batch_size) for s in range(seq_len)]).view_as(x_BSD)


BY_LOOPS: dict[str, Callable[..., Tensor]] = {"sequence": soft_moe_by_loops, "batch": mixture_of_tokens_by_loops}


def compare_with_loops(layer: SoftMoE, mixing: str, activation: str, x_BSD: Tensor, tokens: Tokens | None = None) -> None:
    """Outputs of the tokens that are no padding, and every gradient of them."""
    is_padding_BS = None if tokens is None else tokens.is_padding_BS
    is_token_BS = torch.ones(x_BSD.shape[:2], dtype=torch.bool) if is_padding_BS is None else ~is_padding_BS
    leaves = [x_BSD.clone().requires_grad_(), *layer.parameters()]
    names = ["x", *(name for name, _ in layer.named_parameters())]
    results = []
    for y_BSD in (layer(leaves[0], tokens)[0], BY_LOOPS[mixing](layer, activation, leaves[0], is_padding_BS)):
        y_TD = y_BSD[is_token_BS]
        upstream_TD = torch.linspace(-1, 1, y_TD.numel()).view_as(y_TD)
        results.append([y_TD.detach(), *torch.autograd.grad(y_TD, leaves, upstream_TD)])
    for name, ours, expected in zip(["y", *names], *results, strict=True):
        assert ours.abs().sum() > 0, name
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("num_experts", "slots_per_expert"), [(1, 2), (3, 1), (2, 3)])
def test_soft_moe_equals_the_loops_with_every_gradient(activation, num_experts, slots_per_expert):
    layer = build(soft("sequence", num_experts, slots_per_expert=slots_per_expert), activation=activation)
    compare_with_loops(layer, "sequence", activation, inputs(2, 5))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("num_experts", "group_size", "batch_size"), [(1, 2, 2), (3, 2, 4), (2, 3, 5), (3, None, 4), (2, 4, 3)])
def test_mixture_of_tokens_equals_the_loops_with_every_gradient(activation, num_experts, group_size, batch_size):
    layer = build(soft("batch", num_experts, group_size=group_size), activation=activation)
    assert layer.mixer.group_size == (group_size or num_experts)
    compare_with_loops(layer, "batch", activation, inputs(batch_size, 3))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_padding_equals_the_loops_with_every_gradient(mixing):
    # Position 3 is padding in both sequences of the second group.
    layer = build(soft(mixing, **({"group_size": 2} if mixing == "batch" else {"slots_per_expert": 2})))
    compare_with_loops(layer, mixing, "swiglu", inputs(4, 4), padded([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]]))


def one_number_layer(mixing: str, logit_weights: list[float], out_weights: list[float]) -> SoftMoE:
    """D = 1 and H = 1: expert e is relu(x) * out_e."""
    num_experts = len(logit_weights)
    config = SoftMoEConfig(num_experts=num_experts, d_expert=1, mixing=mixing, **({"group_size": 2} if mixing == "batch" else {}))
    layer = build(config, d_model=1, activation="relu")
    with torch.no_grad():
        layer.experts.in_proj.fill_(1)
        layer.experts.out_proj.copy_(torch.tensor(out_weights).view(-1, 1, 1))
        if mixing == "sequence":
            layer.mixer.slot_weight.copy_(torch.tensor(logit_weights).view(-1, 1, 1))
        else:
            layer.mixer.weight.copy_(torch.tensor(logit_weights).view(-1, 1))
    return layer


def test_soft_moe_by_hand():
    # Tokens 4 and -1 have length 1 as 1 and -1; so do the slots' weights 2 and -5. With scale ln(3)/2 the logits are
    #   token 0: (a, -a), token 1: (-a, a), with a = ln(3)/2, and exp(a) / exp(-a) = 3.
    # Into slot 0: 3/4 and 1/4, so 3/4 * 4 - 1/4 = 11/4; into slot 1: 1/4 * 4 - 3/4 = 1/4.
    # Experts 4 relu(x) and 8 relu(x): 11 and 2. Out of them: token 0 gets 3/4 * 11 + 1/4 * 2 = 35/4, token 1 11/4 + 3/4 * 2 = 17/4.
    layer = one_number_layer("sequence", [2.0, -5.0], [4.0, 8.0])
    with torch.no_grad():
        layer.mixer.scale.fill_(math.log(3) / 2)
    y_BSD, record = layer(torch.tensor([[[4.0], [-1.0]]]))
    torch.testing.assert_close(y_BSD.flatten(), torch.tensor([35 / 4, 17 / 4]))
    torch.testing.assert_close(record.routing.probs_TE, torch.tensor([[3 / 4, 1 / 4], [1 / 4, 3 / 4]]))
    torch.testing.assert_close(record.routing.weights_A, torch.tensor([3 / 4, 1 / 4, 1 / 4, 3 / 4]))


def test_mixture_of_tokens_by_hand():
    # Two sequences of one token, 1 and 0; weights ln 3 and -ln 3. Expert 0: softmax over the group of (ln 3, 0) = 3/4, 1/4;
    # expert 1: of (-ln 3, 0) = 1/4, 3/4. Mixtures 3/4 and 1/4; experts 8 relu(x) and 4 relu(x): 6 and 1.
    # Token 0 gets 3/4 * 6 + 1/4 * 1 = 19/4, token 1 gets 1/4 * 6 + 3/4 * 1 = 9/4.
    layer = one_number_layer("batch", [math.log(3), -math.log(3)], [8.0, 4.0])
    y_BSD, record = layer(torch.tensor([[[1.0]], [[0.0]]]))
    torch.testing.assert_close(y_BSD.flatten(), torch.tensor([19 / 4, 9 / 4]))
    torch.testing.assert_close(record.routing.weights_A, torch.tensor([3 / 4, 1 / 4, 1 / 4, 3 / 4]))
    torch.testing.assert_close(record.routing.probs_TE, torch.tensor([[3 / 4, 1 / 4], [1 / 4, 3 / 4]]))


def test_the_slots_weights_of_one_expert_add_up_in_the_record():
    # Equal logits for all 3 experts * 2 slots: each expert has 2 of 6 slots; the logit of an expert is ln(2) above that of its slots.
    layer = build(soft("sequence", 3, slots_per_expert=2))
    with torch.no_grad():
        layer.mixer.scale.zero_()
    _, record = layer(inputs(1, 4))
    torch.testing.assert_close(record.routing.probs_TE, torch.full((4, 3), 1 / 3))
    torch.testing.assert_close(record.routing.logits_TE, torch.full((4, 3), math.log(2)))


def test_soft_moe_with_one_slot_and_equal_logits_is_the_expert_on_the_mean():
    layer = build(soft("sequence", 1, slots_per_expert=1))
    with torch.no_grad():
        layer.mixer.scale.zero_()
    x_BSD = inputs(2, 5)
    y_BSD, _ = layer(x_BSD)
    for row in range(2):
        expected_D = expert_of(layer, "swiglu", 0, x_BSD[row].mean(dim=0))
        torch.testing.assert_close(y_BSD[row], expected_D.expand(5, -1), rtol=1e-4, atol=1e-5)


def test_soft_moe_does_not_see_the_length_of_a_token_in_its_logits():
    layer = build(soft("sequence"))
    x_BSD = inputs(1, 4)
    lengths_S = torch.tensor([0.5, 1.0, 3.0, 20.0])
    _, record = layer(x_BSD)
    _, scaled = layer(x_BSD * lengths_S[None, :, None])
    torch.testing.assert_close(scaled.routing.logits_TE, record.routing.logits_TE, rtol=1e-4, atol=1e-5)


def test_a_group_of_one_is_the_sum_of_the_experts():
    # softmax over one token is 1 whatever its logit.
    layer = build(soft("batch", 3, group_size=1))
    x_BSD = inputs(2, 4)
    y_BSD, _ = layer(x_BSD)
    expected_TD = torch.stack([sum(expert_of(layer, "swiglu", expert, x_D) for expert in range(3)) for x_D in x_BSD.flatten(0, 1)])
    torch.testing.assert_close(y_BSD.flatten(0, 1), expected_TD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y_BSD.flatten(0, 1), layer.experts.forward_all(x_BSD.flatten(0, 1), torch.ones(8, 3)))


@pytest.mark.parametrize(("group_size", "batch_size"), [(3, 5), (4, 5), (2, 1), (3, 7)])
def test_the_last_sequences_are_mixed_among_themselves(group_size, batch_size):
    layer = build(soft("batch", 2, group_size=group_size))
    x_BSD = inputs(batch_size, 3)
    num_left = batch_size % group_size
    y_BSD, record = layer(x_BSD)
    alone_BSD, alone = layer(x_BSD[-num_left:])
    torch.testing.assert_close(y_BSD[-num_left:], alone_BSD)
    torch.testing.assert_close(record.routing.weights_A.view(batch_size, -1)[-num_left:], alone.routing.weights_A.view(num_left, -1))
    filled_BSD, _ = layer(x_BSD[-num_left:][torch.arange(group_size) % num_left])
    torch.testing.assert_close(alone_BSD, filled_BSD[:num_left])


def test_a_sequence_alone_gets_the_experts_mean_in_the_size_that_it_has_in_a_group():
    # Four equal sequences weigh 1/4 each, and their mixture is each of them: a token gets a quarter of the sum of its experts.
    layer = build(soft("batch", 3, group_size=4))
    x_BSD = inputs(1, 5)
    y_BSD, record = layer(x_BSD)
    expected_TD = layer.experts.forward_all(x_BSD.flatten(0, 1), torch.full((5, 3), 1 / 4))
    torch.testing.assert_close(y_BSD.flatten(0, 1), expected_TD)
    torch.testing.assert_close(record.routing.weights_A, torch.full((15,), 1 / 4))


def test_soft_moe_with_padding_is_the_sequence_cut_short():
    layer = build(soft("sequence", slots_per_expert=2))
    x_BSD = inputs(2, 6)
    y_BSD, record = layer(x_BSD, padded([[0] * 6, [0, 0, 0, 0, 1, 1]]))
    whole_BSD, _ = layer(x_BSD[:1])
    short_BSD, short = layer(x_BSD[1:, :4])
    torch.testing.assert_close(y_BSD[:1], whole_BSD)
    torch.testing.assert_close(y_BSD[1:, :4], short_BSD)
    torch.testing.assert_close(record.routing.probs_TE[6:10], short.routing.probs_TE)
    assert record.load_E.tolist() == [10] * 3
    assert set(record.routing.token_ids_A.tolist()) == set(range(10))


def test_mixture_of_tokens_with_padding_is_the_group_without_it():
    layer = build(soft("batch", 2, group_size=3))
    x_BSD = inputs(3, 4)
    y_BSD, record = layer(x_BSD, padded([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1]]))
    full_BSD, _ = layer(x_BSD[:, :2])
    without_BSD, _ = build(soft("batch", 2, group_size=2))(x_BSD[:2, 2:3])
    torch.testing.assert_close(y_BSD[:, :2], full_BSD)
    torch.testing.assert_close(y_BSD[:2, 2:3], without_BSD)
    assert y_BSD.isfinite().all()
    assert record.load_E.tolist() == [8, 8]
    assert set(record.routing.token_ids_A.tolist()) == {0, 1, 2, 4, 5, 6, 8, 9}


@pytest.mark.parametrize("mixing", MIXINGS)
def test_padding_tells_nobody_anything(mixing):
    layer = build(soft(mixing, 2))
    tokens = padded([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    x_BSD = inputs(4, 4)
    changed_BSD = x_BSD.clone()
    changed_BSD[tokens.is_padding_BS] = 100.0
    is_token_BS = ~tokens.is_padding_BS
    assert torch.equal(layer(x_BSD, tokens)[0][is_token_BS], layer(changed_BSD, tokens)[0][is_token_BS])
    x_BSD.requires_grad_()
    layer(x_BSD, tokens)[0][is_token_BS].sum().backward()
    assert (x_BSD.grad[tokens.is_padding_BS] == 0).all()
    assert (x_BSD.grad[is_token_BS] != 0).any(dim=-1).all()


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("tokens", [None, padded([[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]])], ids=["all", "padding"])
@pytest.mark.parametrize("size", [1.0, 1000.0])  # 1000: most weights of a group round to 0
def test_the_record_keeps_the_contract(mixing, tokens, size):
    layer = build(soft(mixing, 2))
    y_BSD, record = layer(inputs(4, 3) * size, tokens)
    routing = record.routing
    assert y_BSD.isfinite().all() and routing.logits_TE.isfinite().all()
    torch.testing.assert_close(routing.probs_TE.sum(dim=-1), torch.ones(12))
    assert routing.logits_TE.dtype == routing.probs_TE.dtype == routing.weights_A.dtype == torch.float32
    assert routing.top_k == routing.num_experts == 2 and routing.seq_len == 3
    num_tokens = 12 if tokens is None else 6
    assert record.load_E.tolist() == record.chosen_load_E.tolist() == [num_tokens] * 2
    assert record.kept_A.tolist() == [True] * 2 * num_tokens
    assert routing.choices_A.tolist() == [0] * 2 * num_tokens
    assert torch.equal(record.final_expert_ids_A, routing.expert_ids_A)
    assert not any(tensor.requires_grad for tensor in (routing.logits_TE, routing.probs_TE, routing.weights_A)), "no loss may teach these"
    assert y_BSD.requires_grad


def test_init_of_soft_moe():
    # LeCun normal: variance 1 / d_model. 8 * 4 * 64 = 2048 draws: the standard error of their deviation is 1 / sqrt(2 * 2048) = 1.6 %.
    layer = build(soft("sequence", 8, slots_per_expert=4), d_model=64)
    layer.init_weights(torch.Generator().manual_seed(0))
    assert layer.mixer.scale.tolist() == [1.0]
    assert layer.mixer.slot_weight.std().item() == pytest.approx(64**-0.5, rel=0.06)
    assert abs(layer.mixer.slot_weight.mean().item()) < 4 * 64**-0.5 / 2048**0.5
    again = build(soft("sequence", 8, slots_per_expert=4), d_model=64, seed=5)
    again.init_weights(torch.Generator().manual_seed(0))
    assert torch.equal(again.mixer.slot_weight, layer.mixer.slot_weight)


def test_mixture_of_tokens_begins_as_the_rest_of_the_model():
    layer = build(soft("batch"))
    before = [parameter.clone() for parameter in layer.parameters()]
    layer.init_weights(torch.Generator().manual_seed(0))
    assert all(torch.equal(parameter, old) for parameter, old in zip(layer.parameters(), before, strict=True))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_bfloat16_autocast_leaves_the_logits_in_float32(mixing):
    layer = build(soft(mixing, 4, d_expert=8), d_model=16)
    x_BSD = inputs(4, 6, d_model=16)
    exact_BSD, exact = layer(x_BSD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_BSD, record = layer(x_BSD)
    assert torch.equal(record.routing.logits_TE, exact.routing.logits_TE)
    assert record.routing.logits_TE.dtype == torch.float32
    assert not torch.equal(y_BSD.float(), exact_BSD), "autocast changed nothing: the products were not in bfloat16"
    # bfloat16 keeps 8 bits; four products and four casts in a row, each wrong by up to 2^-8 of its result.
    assert (y_BSD.float() - exact_BSD).norm() / exact_BSD.norm() < 0.03
    y_BSD.float().sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


@pytest.mark.parametrize(("mixing", "wrong"), [("sequence", {"group_size": 4}), ("batch", {"slots_per_expert": 2})])
def test_an_option_of_the_other_mixing_is_refused(mixing, wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SoftMoEConfig(mixing=mixing, **wrong)


def test_defaults_are_filled_in_and_stay_valid():
    sequence = SoftMoEConfig(num_experts=6).with_default_widths(16)
    batch = SoftMoEConfig(num_experts=6, mixing="batch").with_default_widths(16)
    assert (sequence.d_expert, sequence.slots_per_expert, sequence.group_size) == (64, 1, None)
    assert (batch.d_expert, batch.slots_per_expert, batch.group_size) == (64, None, 6)
    for config in (sequence, batch):
        assert SoftMoEConfig(**config.model_dump()) == config


def test_sequences_that_do_not_fill_their_groups_are_told():
    config = SoftMoEConfig(num_experts=8, mixing="batch", group_size=4)
    assert config.problems_with_batches({"a": 8, "b": 4}, 16) == []
    (problem,) = config.problems_with_batches({"a": 6, "b": 8, "c": 9}, 16)
    assert problem.field == "group_size" and problem.what == "groups of 4 sequences don't divide a (6) and c (9)"
    assert "a divisor of 1;" in problem.allowed
    by_default = SoftMoEConfig(num_experts=8, mixing="batch")
    assert [bool(by_default.problems_with_batches({"a": size}, 16)) for size in (8, 12, 16)] == [False, True, False]
    assert SoftMoEConfig(num_experts=8).problems_with_batches({"a": 3}, 16) == []


def test_flops_by_hand():
    # d_model 7, d_expert 3, swiglu: one expert has 2 * 3 * 7 + 7 * 3 = 63 weights.
    # Soft MoE, 3 experts of 2 slots: 6 mixtures per sequence of 12 tokens, 1/2 per token: 2 * 63 / 2 = 63 operations;
    # logits, mixing in and mixing out: 3 products of 7 * 6 weights each: 3 * 2 * 42 = 252.
    assert build(soft("sequence", 3, slots_per_expert=2)).forward_flops_per_token(12) == 63 + 252
    # Mixture of Tokens, 3 experts, groups of 6: 1/2 mixture per token: 63; 3 products of 7 * 3: 126.
    assert build(soft("batch", 3, group_size=6)).forward_flops_per_token(12) == 63 + 126
