"""Mixed models against the definition written out, and the identities that must hold."""

from __future__ import annotations

import pytest
import torch

from moecli.convert.mix import MixOptions, average, domain_rows, mean_router_inputs, mix
from moecli.convert.upcycle import UpcycleOptions, upcycle
from moecli.model.gpt import GPT
from tests.convert.upcycle_models import SEQ_LEN, VOCAB, dense_model, moe_config

TWO = {"num_experts": 2, "router": {"kind": "topk", "top_k": 2}}
RAW = {"num_experts": 2, "router": {"kind": "topk", "top_k": 1}}


def other_model(seed: int = 5, **options) -> GPT:
    """Of the dense model's shape, with every number another one."""
    model = dense_model(**options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.empty_like(parameter).normal_(std=0.3, generator=generator)
    return model


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (3, SEQ_LEN), generator=torch.Generator().manual_seed(seed))


def test_experts_are_the_networks_and_all_else_is_the_mean():
    first, second = dense_model(), other_model()
    mixed = mix([first, second], moe_config(TWO), MixOptions(seed=3)).state_dict()
    one, two = first.state_dict(), second.state_dict()
    for layer in range(2):
        for name in ("in_proj", "out_proj"):
            stacked = mixed.pop(f"blocks.{layer}.ffn.experts.{name}")
            for expert, state in enumerate((one, two)):
                assert torch.equal(stacked[expert], state.pop(f"blocks.{layer}.ffn.{name}.weight"))
        mixed.pop(f"blocks.{layer}.ffn.router.weight")
    assert mixed.keys() == one.keys() == two.keys() and len(mixed) > 10
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2)


def test_the_output_projections_are_divided_by_what_the_weights_add_up_to():
    first, second = dense_model(), other_model()
    experts = mix([first, second], moe_config(RAW), MixOptions()).blocks[1].ffn.experts
    # Top-1 of 2 by a softmax: 1 / 2 at logits of 0, so twice the weights.
    assert torch.equal(experts.out_proj[1], second.blocks[1].ffn.out_proj.weight * 2)
    assert torch.equal(experts.in_proj[1], second.blocks[1].ffn.in_proj.weight)


def test_layers_without_experts_are_averaged():
    first, second = dense_model(), other_model()
    mixed = mix([first, second], moe_config(TWO, moe_layers={"indices": [1]}), MixOptions())
    weight = mixed.blocks[0].ffn.in_proj.weight
    torch.testing.assert_close(weight, (first.blocks[0].ffn.in_proj.weight + second.blocks[0].ffn.in_proj.weight) / 2)
    assert torch.equal(mixed.blocks[1].ffn.experts.in_proj[1], second.blocks[1].ffn.in_proj.weight)


@pytest.mark.parametrize("ffn", [TWO | {"num_experts": 3}, {"kind": "dense", "num_experts": 3}], ids=["sparse", "dense"])
def test_equal_sources_give_what_upcycling_gives_bit_for_bit(ffn):
    model = dense_model()
    mixed = mix([model, model, model], moe_config(ffn), MixOptions(seed=7)).state_dict()
    upcycled = upcycle(model, moe_config(ffn), UpcycleOptions("copies", seed=7)).model.state_dict()
    assert mixed.keys() == upcycled.keys()
    assert all(torch.equal(mixed[name], upcycled[name]) for name in mixed)


@pytest.mark.parametrize("expert", [0, 1])
def test_where_one_expert_takes_all_the_model_is_the_average_with_its_networks(expert):
    sources = [dense_model(), other_model()]
    config = moe_config({"num_experts": 2, "router": {"kind": "sigmoid_topk", "top_k": 1, "normalize_weights": False}})
    mixed = mix(sources, config, MixOptions())
    expected = average(sources)
    with torch.no_grad():
        for layer in range(2):
            router = mixed.blocks[layer].ffn.router
            # Logits of 0: each expert's score is 1/2, and its outputs were doubled. The bias alone chooses.
            router.weight.zero_()
            router.selection_bias_E = torch.tensor([1.0, 0.0] if expert == 0 else [0.0, 1.0])
            expected.blocks[layer].ffn.load_state_dict(sources[expert].blocks[layer].ffn.state_dict())
    torch.testing.assert_close(mixed(ids())[0], expected(ids())[0], rtol=1e-5, atol=1e-5)


def test_the_average_is_another_model_and_equal_weights_stay():
    model = dense_model()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in average([model] * 3).state_dict().items())
    assert (average([model, other_model()])(ids())[0] - model(ids())[0]).abs().max() > 1e-2


def naive_router_inputs(model: GPT, ids_BS: torch.Tensor) -> list[torch.Tensor]:
    """The blocks of the model written out: what reaches each feed-forward network, [B * S, D]."""
    x_BSD, inputs = model.embedding(ids_BS), []
    for block in model.blocks:
        x_BSD = x_BSD + block.attention(block.attention_norm(x_BSD), None, None)
        inputs.append(block.ffn_norm(x_BSD).flatten(0, 1))
        x_BSD = x_BSD + block.ffn(inputs[-1].view_as(x_BSD))[0]
    return inputs


def test_domain_rows_are_the_means_of_what_the_router_reads():
    sources = [dense_model(), other_model(5), other_model(6)]
    model = average(sources)
    texts = [[ids(1), ids(2)[:1]], [ids(3)], [ids(4)]]
    rows = domain_rows([mean_router_inputs(model, batches, [0, 1]) for batches in texts])
    for layer in range(2):
        with torch.no_grad():
            means = [torch.cat([naive_router_inputs(model, batch)[layer] for batch in batches]).mean(dim=0) for batches in texts]
        common = sum(means) / 3
        for expert, mean in enumerate(means):
            torch.testing.assert_close(rows[layer][expert], (mean - common) / (mean - common).norm(), rtol=1e-4, atol=1e-5)
    assert not any(ffn._forward_pre_hooks for ffn in model.feed_forwards())


def test_rows_by_hand():
    means = [{0: torch.tensor([1.0, 0.0], dtype=torch.float64)}, {0: torch.tensor([1.0, 4.0], dtype=torch.float64)}]
    # In common (1, 2); what is left is (0, -2) and (0, 2).
    assert domain_rows(means)[0].tolist() == [[0.0, -1.0], [0.0, 1.0]]
    assert domain_rows([means[0], means[0]])[0].tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("ffn", "name"),
    [
        (TWO, "router.weight"),
        ({"num_experts": 2, "router": {"kind": "noisy_topk"}}, "router.weight"),
        ({"kind": "dense", "num_experts": 2}, "gate_weight"),
    ],
    ids=["topk", "noisy", "dense"],
)
def test_the_rows_are_the_gates_first_weights_and_nothing_else(ffn, name):
    sources = [dense_model(), other_model()]
    rows = {layer: torch.full((2, 8), 0.5 + layer) for layer in range(2)}
    plain, filled = (mix(sources, moe_config(ffn), MixOptions(seed=2), given).state_dict() for given in (None, rows))
    changed = [key for key in plain if not torch.equal(plain[key], filled[key])]
    assert changed == [f"blocks.{layer}.ffn.{name}" for layer in range(2)]
    assert all(torch.equal(filled[f"blocks.{layer}.ffn.{name}"], rows[layer]) for layer in range(2))


def test_the_seed_decides_the_router_alone():
    sources = [dense_model(), other_model()]
    one, same, other = (mix(sources, moe_config(TWO), MixOptions(seed=seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert [name for name in one if not torch.equal(one[name], other[name])] == [f"blocks.{layer}.ffn.router.weight" for layer in range(2)]


def test_the_sources_stay_as_they_are():
    first, second = dense_model(), other_model()
    before = [tensor.clone() for model in (first, second) for tensor in model.state_dict().values()]
    mixed = mix([first, second], moe_config(TWO), MixOptions())
    with torch.no_grad():
        for parameter in mixed.parameters():
            parameter.fill_(7)
    after = [tensor for model in (first, second) for tensor in model.state_dict().values()]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
