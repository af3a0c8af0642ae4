"""AdamW's moments of an MoE are those of the dense model that it was made from: copied, cut, scaled, or none."""

from __future__ import annotations

import pytest
import torch

from moecli.convert.upcycle import UpcycleOptions, output_factor, upcycle
from moecli.convert.upcycle_moments import carried_moments
from tests.convert.upcycle_models import D_FF, VOCAB, dense_model, moe_config

COPIES, DROP, GRANULAR = UpcycleOptions("copies"), UpcycleOptions("drop"), UpcycleOptions("granular")
HALF = D_FF // 2
IN, OUT = "blocks.0.ffn.in_proj.weight", "blocks.0.ffn.out_proj.weight"
EXPERTS_IN, EXPERTS_OUT = "blocks.0.ffn.experts.in_proj", "blocks.0.ffn.experts.out_proj"


def random_moments(model) -> dict[str, dict[str, torch.Tensor]]:
    """As after 7 steps; no number is 0."""
    generator = torch.Generator().manual_seed(3)

    def state(parameter):
        mean = torch.empty_like(parameter).uniform_(0.5, 1.5, generator=generator)
        return {"step": torch.tensor(7.0), "exp_avg": mean, "exp_avg_sq": mean.square() + 1}

    return {name: state(parameter.detach()) for name, parameter in model.named_parameters()}


def carried(ffn: dict, options: UpcycleOptions = COPIES, **shape):
    """The dense model's moments, and the MoE with its own."""
    dense = dense_model(**shape)
    upcycled = upcycle(dense, moe_config(ffn, **shape), options)
    moments = random_moments(dense)
    return moments, upcycled, carried_moments(moments, dense.config, upcycled, options)


@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
def test_every_copy_has_the_moments_of_what_it_is_a_copy_of(activation):
    # Sigmoid weights add up to 2.5: the output projections are multiplied by c = 1 / 2.5 = 0.4.
    ffn = {"num_experts": 4, "router": {"kind": "sigmoid_topk", "top_k": 2, "scale": 2.5}}
    moments, upcycled, after = carried(ffn, activation=activation)
    for expert in range(4):
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(after[EXPERTS_IN][key][expert], moments[IN][key])
        torch.testing.assert_close(after[EXPERTS_OUT]["exp_avg"][expert], moments[OUT]["exp_avg"] / 0.4)
        torch.testing.assert_close(after[EXPERTS_OUT]["exp_avg_sq"][expert], moments[OUT]["exp_avg_sq"] / 0.16)
    assert all(after[name] == moments[name] for name in moments if ".ffn." not in name)
    parameters = dict(upcycled.model.named_parameters())
    assert parameters.keys() - after.keys() == {f"blocks.{layer}.ffn.router.weight" for layer in range(2)}
    for name, state in after.items():
        assert state["step"] == 7 and state["exp_avg"].shape == state["exp_avg_sq"].shape == parameters[name].shape


def test_a_factor_by_hand():
    # Weights 0.3 become 0.3 * 0.4 = 0.12. With a mean of 3 and a mean square of 9: 3 / 0.4 = 7.5 and 9 / 0.4^2 = 9 / 0.16 = 56.25.
    dense, config = dense_model(), moe_config({"num_experts": 2, "router": {"kind": "sigmoid_topk", "top_k": 2, "scale": 2.5}})
    moments = {name: {"step": torch.tensor(1.0)} for name in (IN, OUT)}
    for name, mean in ((IN, 2.0), (OUT, 3.0)):
        shape = dense.get_parameter(name).shape
        moments[name] |= {"exp_avg": torch.full(shape, mean), "exp_avg_sq": torch.full(shape, mean**2)}
    after = carried_moments(moments, dense.config, upcycle(dense, config, COPIES), COPIES)
    assert after.keys() == {EXPERTS_IN, EXPERTS_OUT}
    for name, mean, square in ((EXPERTS_IN, 2.0, 4.0), (EXPERTS_OUT, 7.5, 56.25)):
        torch.testing.assert_close(after[name]["exp_avg"].unique(), torch.tensor([mean]))
        torch.testing.assert_close(after[name]["exp_avg_sq"].unique(), torch.tensor([square]))


def test_the_gradient_of_a_scaled_weight_is_what_the_docstring_says():
    # Two shards of one copy, each used by every token with weight 1/2, output projections times 2: 1 / c of the dense gradient, exactly.
    dense = dense_model()
    config = moe_config({"num_experts": 2, "d_expert": HALF, "router": {"kind": "topk", "top_k": 2}})
    upcycled = upcycle(dense, config, GRANULAR)
    assert output_factor(dense.config, config, GRANULAR) == 2
    ids_BS = torch.randint(VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))
    for model in (dense, upcycled.model):
        logits_BSV, _ = model(ids_BS)
        torch.nn.functional.cross_entropy(logits_BSV[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten()).backward()
    # A first moment that is the gradient, and a second that is its square, stay so.
    state = {name: {"step": torch.tensor(1.0), "exp_avg": p.grad, "exp_avg_sq": p.grad**2} for name, p in dense.named_parameters()}
    after = carried_moments(state, dense.config, upcycled, GRANULAR)
    for name, parameter in upcycled.model.named_parameters():
        if "router" not in name:
            torch.testing.assert_close(after[name]["exp_avg"], parameter.grad, rtol=1e-4, atol=1e-7)
            torch.testing.assert_close(after[name]["exp_avg_sq"], parameter.grad**2, rtol=2e-4, atol=1e-10)


def test_shards_have_the_moments_of_their_units():
    # Four copies would be 8 experts of half the width; expert n * 2 + g is shard g. Top-2 of them: c = G / s = 2.
    moments, _, after = carried({"num_experts": 6, "d_expert": HALF, "router": {"kind": "topk", "top_k": 2}}, GRANULAR)
    for expert in range(6):
        units = range(expert % 2 * HALF, expert % 2 * HALF + HALF)
        rows = [*units, *(unit + D_FF for unit in units)]
        assert torch.equal(after[EXPERTS_IN]["exp_avg"][expert], moments[IN]["exp_avg"][rows])
        torch.testing.assert_close(after[EXPERTS_OUT]["exp_avg_sq"][expert], moments[OUT]["exp_avg_sq"][:, units] / 4)


def test_units_that_begin_anew_have_none():
    moments, upcycled, after = carried({"num_experts": 4}, DROP)
    is_new_EH = upcycled.new_units[0]
    assert is_new_EH.sum(dim=1).tolist() == [HALF] * 4
    kept_EH = (upcycled.model.feed_forwards()[0].experts.out_proj != 0) & (after[EXPERTS_OUT]["exp_avg"] != 0)
    assert torch.equal(kept_EH.all(dim=1), ~is_new_EH) and torch.equal(kept_EH.any(dim=1), ~is_new_EH)
    for key in ("exp_avg", "exp_avg_sq"):
        gate_EHD, up_EHD = after[EXPERTS_IN][key].chunk(2, dim=1)
        for part_EHD in (gate_EHD, up_EHD):
            assert torch.equal((part_EHD != 0).all(dim=2), ~is_new_EH) and torch.equal((part_EHD != 0).any(dim=2), ~is_new_EH)
        for expert, units in enumerate(~is_new_EH):
            assert torch.equal(after[EXPERTS_OUT][key][expert][:, units], moments[OUT][key][:, units])


@pytest.mark.parametrize(("is_gated", "factor"), [(False, 1), (True, 2)])
def test_shared_experts_have_them_all_and_the_routed_ones_beside_them_none(is_gated, factor):
    moments, _, after = carried({"num_experts": 4, "num_shared_experts": 1, "shared_gate": is_gated})
    prefix = "blocks.0.ffn."
    assert {name for name in after if name.startswith(prefix)} == {f"{prefix}shared.{part}_proj.weight" for part in ("in", "out")}
    assert torch.equal(after[f"{prefix}shared.in_proj.weight"]["exp_avg"], moments[IN]["exp_avg"])
    assert torch.equal(after[f"{prefix}shared.out_proj.weight"]["exp_avg"], moments[OUT]["exp_avg"] / factor)
    assert torch.equal(after[f"{prefix}shared.out_proj.weight"]["exp_avg_sq"], moments[OUT]["exp_avg_sq"] / factor**2)


def test_what_was_frozen_in_the_dense_training_begins_anew():
    dense = dense_model()
    moments = {name: state for name, state in random_moments(dense).items() if ".ffn." not in name}
    upcycled = upcycle(dense, moe_config({"num_experts": 4}), COPIES)
    assert carried_moments(moments, dense.config, upcycled, COPIES).keys() == moments.keys()
