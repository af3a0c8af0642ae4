"""What can't be mixed is told, all at once, with what could."""

from __future__ import annotations

import pytest

from moecli.convert.mix_check import are_equal, mix_problems, settings_that_fit, source_problems
from moecli.model.init import build_gpt
from tests.convert.test_mix import other_model
from tests.convert.upcycle_models import D_FF, VOCAB, dense_config, dense_model, moe_config

TWO = {"num_experts": 2}


def told(problems) -> list[tuple[str, str]]:
    return [(problem.field, problem.allowed) for problem in problems]


@pytest.mark.parametrize("ffn", [TWO, TWO | {"kind": "dense"}, TWO | {"router": {"kind": "hash"}}])
def test_what_fits(ffn):
    assert mix_problems(dense_config(), moe_config(ffn), 2, "random") == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dense_config(), [("ffn.kind", "sparse or dense")]),
        (moe_config({"kind": "soft", "num_experts": 2}, causal=False), [("ffn.kind", "sparse or dense")]),
        (moe_config({"num_experts": 3}), [("ffn.num_experts", "2")]),
        (moe_config(TWO | {"d_expert": 8}), [("ffn.d_expert", "16")]),
        (moe_config(TWO | {"num_shared_experts": 1}), [("ffn.num_shared_experts", "0")]),
        (moe_config(TWO, moe_layers={"indices": [1]}, dense_d_ff=24), [("dense_d_ff", "16")]),
        (
            moe_config({"num_experts": 4, "d_expert": 12}, rope_theta=100.0, norm_eps=1e-3),
            [("rope_theta", "10000.0"), ("norm_eps", "1e-05"), ("ffn.num_experts", "2"), ("ffn.d_expert", "16")],
        ),
        (moe_config(TWO, num_layers=3), [("num_layers", "2")]),
    ],
)
def test_what_does_not_fit(config, expected):
    problems = told(mix_problems(dense_config(), config, 2, "random"))
    assert sorted(problems) == sorted(expected)


@pytest.mark.parametrize("router", ["hash", "random"])
def test_a_router_without_scores_has_no_rows_for_domains(router):
    [problem] = mix_problems(dense_config(), moe_config(TWO | {"router": {"kind": router}}), 2, "domain")
    assert problem.field == "ffn.router.kind" and "--router-init random" in problem.allowed
    assert mix_problems(dense_config(), moe_config(TWO), 2, "domain") == []


def test_sources_that_differ():
    first = dense_model()
    assert source_problems(first, other_model()) == []
    wider = dense_model(num_layers=2, ffn={"kind": "mlp", "d_ff": 24}, tie_embeddings=not first.config.tie_embeddings)
    assert [field for field, _ in told(source_problems(first, wider))] == ["tie_embeddings", "ffn.d_ff"]
    assert [field for field, _ in told(source_problems(first, dense_model(num_layers=3)))] == ["num_layers"]
    experts = build_gpt(moe_config(TWO), VOCAB, seed=0)
    assert told(source_problems(first, experts)) == [("ffn.kind", "mlp in every layer")]


def test_equal_is_bit_for_bit():
    assert are_equal([dense_model(), dense_model()])
    assert not are_equal([dense_model(), dense_model(), other_model()])


def test_the_settings_are_those_that_fit():
    assert settings_that_fit(dense_config(), 3) == {
        "model.ffn.kind": "sparse", "model.ffn.num_experts": 3, "model.ffn.d_expert": D_FF,
    }  # fmt: skip
