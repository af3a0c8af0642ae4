"""What upcycling draws: units that begin anew, noise, the router's first weights, all by one seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moecli.convert.upcycle import UpcycleOptions, begin_anew, upcycle
from tests.convert.upcycle_models import dense_model, moe_config

COPIES, DROP = UpcycleOptions("copies"), UpcycleOptions("drop")


@pytest.mark.parametrize("is_gated", [True, False])
def test_units_that_begin_anew_are_the_same_in_all_matrices(is_gated):
    hidden = 200
    in_FD, out_DH = torch.randn(hidden * (1 + is_gated), 50), torch.randn(50, hidden) * 3 + 1
    new_in_FD, new_out_DH = in_FD.clone(), out_DH.clone()
    units = begin_anew(new_in_FD, new_out_DH, 0.3, torch.Generator().manual_seed(0), is_gated=is_gated)
    assert len(units.unique()) == 60  # int(0.3 * 200)
    changed_rows = (new_in_FD != in_FD).all(dim=1).nonzero().flatten()
    expected = torch.cat([units, units + hidden]) if is_gated else units
    assert changed_rows.tolist() == sorted(expected.tolist())
    assert torch.equal((new_in_FD != in_FD).any(dim=1), (new_in_FD != in_FD).all(dim=1))
    assert (new_out_DH != out_DH).all(dim=0).nonzero().flatten().tolist() == sorted(units.tolist())
    # 3,000 draws: the standard error of the mean is 3 / sqrt(3000) = 0.055.
    assert new_out_DH[:, units].mean().item() == pytest.approx(out_DH[:, units].mean().item(), abs=0.25)
    assert new_out_DH[:, units].std().item() == pytest.approx(3, abs=0.25)


def test_each_part_is_redrawn_with_its_own_mean_and_spread():
    # Gate rows of 3, up rows of 5, output columns of 7: without spread, what is redrawn is what was there.
    in_FD = torch.cat([torch.full((4, 6), 3.0), torch.full((4, 6), 5.0)])
    out_DH = torch.full((6, 4), 7.0)
    units = begin_anew(in_FD, out_DH, 1.0, torch.Generator().manual_seed(0), is_gated=True)
    assert sorted(units.tolist()) == [0, 1, 2, 3]
    assert in_FD[:4].unique().tolist() == [3] and in_FD[4:].unique().tolist() == [5] and out_DH.unique().tolist() == [7]


def test_experts_drop_units_of_their_own():
    dense = dense_model()
    experts = upcycle(dense, moe_config({"num_experts": 4}), DROP).model.feed_forwards()[0].experts
    kept = [tuple((weight == dense.feed_forwards()[0].out_proj.weight).all(dim=0).tolist()) for weight in experts.out_proj]
    assert [sum(units) for units in kept] == [8] * 4  # half of 16
    assert len(set(kept)) > 1


def test_noise_is_relative_to_the_matrix_that_it_is_added_to():
    dense = dense_model(d_model=32)
    with torch.no_grad():
        dense.feed_forwards()[0].in_proj.weight.mul_(10)
    experts = (
        upcycle(dense, moe_config({"num_experts": 8}, d_model=32), UpcycleOptions("copies", noise_std=0.2)).model.feed_forwards()[0].experts
    )
    for noisy, plain in (
        (experts.in_proj, dense.feed_forwards()[0].in_proj.weight),
        (experts.out_proj, dense.feed_forwards()[0].out_proj.weight),
    ):
        noise = noisy - plain
        assert (noise.std() / plain.std()).item() == pytest.approx(0.2, rel=0.05)
        assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("options", [DROP, UpcycleOptions("copies", noise_std=0.1, router_std=0.3)])
def test_the_seed_decides_every_draw(options):
    dense, config = dense_model(), moe_config({"num_experts": 4})

    def made(seed: int) -> dict[str, torch.Tensor]:
        return upcycle(dense, config, replace(options, seed=seed)).model.state_dict()

    first, again, other = made(0), made(0), made(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if not torch.equal(first[name], other[name])]
    parts = ("router.weight", "experts.in_proj", "experts.out_proj")
    assert drawn == [f"blocks.{layer}.ffn.{part}" for layer in range(2) for part in parts]


def test_the_routers_spread_can_be_chosen():
    dense, config = dense_model(d_model=64), moe_config({"num_experts": 64}, d_model=64)
    weight = upcycle(dense, config, UpcycleOptions("copies", router_std=0.003)).model.feed_forwards()[0].router.weight
    assert weight.std().item() == pytest.approx(0.003, rel=0.1)  # 4,096 draws
    default = upcycle(dense, config, COPIES).model.feed_forwards()[0].router.weight
    assert default.std().item() == pytest.approx(config.init_std, rel=0.1)
