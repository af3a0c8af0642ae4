"""Checkpoints of transformers: what is said that their routers did, against the rule of each architecture and transformers alone."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

from moecli.analysis.hf_model import HuggingFaceModel, load_huggingface
from moecli.analysis.hf_routing import routed_layers
from moecli.analysis.load_report import LoadCollector
from moecli.data.batches import Batch
from moecli.errors import RunError
from moecli.evaluation.evaluate import evaluate
from tests.analysis.hf_checkpoints import (
    NUM_EXPERTS,
    VOCAB,
    expected_choice,
    plain_model,
    routing_modules,
    write_checkpoint,
)

# Two sequences of 13 tokens.
IDS_BS = torch.randint(3, VOCAB, (2, 13), generator=torch.Generator().manual_seed(1))
NUM_TOKENS = IDS_BS.numel()
SOFTMAX = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss", "granitemoe")
SIGMOID = ("deepseek_v3", "glm4_moe")


@torch.no_grad()
def run(model, ids_BS=IDS_BS):
    return model(ids_BS)


@pytest.mark.parametrize("model_type", SOFTMAX + SIGMOID)
def test_choices_weights_and_probabilities_follow_from_the_rule_of_the_architecture(tmp_path, model_type):
    folder = write_checkpoint(tmp_path, model_type)
    model, plain = load_huggingface(folder), plain_model(folder)
    logits_BSV, records = run(model)
    with torch.no_grad():
        expected = plain(input_ids=IDS_BS, output_router_logits=True)
    assert torch.equal(logits_BSV, expected.logits)

    blocks = routing_modules(plain)
    assert [layer for layer, record in enumerate(records) if record is not None] == list(blocks)
    assert list(blocks) == ([1] if model_type in SIGMOID else [0, 1]), "the first layer of these is dense"
    assert len(records) == 2
    for router_logits_TE, (layer, block) in zip(expected.router_logits, blocks.items(), strict=True):
        bias_E = block.gate.e_score_correction_bias if model_type in SIGMOID else None
        choices = [expected_choice(plain.config, logits_E, bias_E) for logits_E in router_logits_TE]
        record = records[layer]
        assert record.load_E.tolist() == [sum(expert in choice for choice in choices) for expert in range(NUM_EXPERTS)]
        assert record.load_E.max() > 1.5 * record.load_E.float().mean(), "the router is too even to tell anything"
        assert torch.equal(record.load_E, record.chosen_load_E) and record.kept_A.all()

        routing = record.routing
        assert (routing.top_k, routing.seq_len) == (3, 13)
        weights_TK = routing.weights_A.view(NUM_TOKENS, 3)
        assert (weights_TK.diff(dim=1) <= 0).all(), "best first"
        for token, choice in enumerate(choices):
            mine = slice(token * 3, token * 3 + 3)
            assert routing.token_ids_A[mine].tolist() == [token] * 3
            assert routing.choices_A[mine].tolist() == [0, 1, 2]
            assert dict(zip(routing.expert_ids_A[mine].tolist(), routing.weights_A[mine].tolist(), strict=True)) == pytest.approx(
                choice, rel=1e-4
            )

        scores_TE = router_logits_TE.sigmoid() if model_type in SIGMOID else router_logits_TE.softmax(dim=1)
        torch.testing.assert_close(routing.probs_TE, scores_TE / scores_TE.sum(dim=1, keepdim=True))
        torch.testing.assert_close(routing.probs_TE.sum(dim=1), torch.ones(NUM_TOKENS))
        torch.testing.assert_close(routing.logits_TE, router_logits_TE)


def test_bias_and_groups_change_the_choice_of_the_sigmoid_routers(tmp_path):
    # Or else the comparison above would prove nothing about them.
    plain = plain_model(write_checkpoint(tmp_path, "deepseek_v3"))
    with torch.no_grad():
        (router_logits_TE,) = plain(input_ids=IDS_BS, output_router_logits=True).router_logits
    bias_E = routing_modules(plain)[1].gate.e_score_correction_bias

    def chosen(bias_E):
        return [set(expected_choice(plain.config, logits_E, bias_E)) for logits_E in router_logits_TE]

    with_both = chosen(bias_E)
    assert chosen(torch.zeros_like(bias_E)) != with_both
    plain.config.n_group = plain.config.topk_group = 1
    assert chosen(bias_E) != with_both


def test_an_architecture_that_nobody_listed_works(tmp_path):
    folder = write_checkpoint(tmp_path, "ernie4_5_moe")
    model, plain = load_huggingface(folder), plain_model(folder)
    logits_BSV, records = run(model)
    with torch.no_grad():
        expected = plain(input_ids=IDS_BS, output_router_logits=True)
    assert torch.equal(logits_BSV, expected.logits)
    # It chooses by softmax plus a bias, in the second of its two layers alone.
    assert records[0] is None
    bias_E = routing_modules(plain)[1].gate.moe_statics.e_score_correction_bias.flatten()
    probs_TE = expected.router_logits[0].softmax(dim=1)
    best_TK = (probs_TE + bias_E).topk(3).indices
    assert records[1].load_E.tolist() == torch.bincount(best_TK.flatten(), minlength=NUM_EXPERTS).tolist()
    torch.testing.assert_close(records[1].routing.probs_TE, probs_TE)


def test_a_distribution_that_does_not_explain_the_weights_is_not_claimed(tmp_path):
    # Phi-MoE weighs each choice by a softmax over other experts: neither the softmax nor the sigmoids are in proportion to its weights.
    for record in run(load_huggingface(write_checkpoint(tmp_path, "phimoe")))[1]:
        assert record.load_E.sum() == 2 * NUM_TOKENS
        assert record.routing.probs_TE.shape == record.routing.logits_TE.shape == (NUM_TOKENS, NUM_EXPERTS)
        assert record.routing.probs_TE.isnan().all() and record.routing.logits_TE.isnan().all()


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_low_precision_is_kept_and_its_distribution_is_known_all_the_same(tmp_path, model_type):
    model = load_huggingface(write_checkpoint(tmp_path, model_type, dtype=torch.bfloat16))
    logits_BSV, records = run(model)
    assert logits_BSV.dtype == torch.bfloat16
    routing = records[1].routing
    scores_TE = routing.logits_TE.sigmoid() if model_type == "deepseek_v3" else routing.logits_TE.softmax(dim=1)
    torch.testing.assert_close(routing.probs_TE, scores_TE / scores_TE.sum(dim=1, keepdim=True))
    assert routing.weights_A.dtype == routing.probs_TE.dtype == torch.float32


def test_widths_that_are_no_multiple_of_four(tmp_path):
    folder = write_checkpoint(tmp_path, "mixtral", hidden_size=18, intermediate_size=7, num_attention_heads=3, num_key_value_heads=3)
    logits_BSV, records = run(load_huggingface(folder))
    with torch.no_grad():
        assert torch.equal(logits_BSV, plain_model(folder)(input_ids=IDS_BS).logits)
    assert records[0].load_E.sum() == 3 * NUM_TOKENS


def test_one_expert_per_token(tmp_path):
    folder = write_checkpoint(tmp_path, "qwen2_moe", num_experts_per_tok=1)
    routing = run(load_huggingface(folder))[1][0].routing
    torch.testing.assert_close(routing.probs_TE.amax(dim=1), routing.weights_A)


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_an_expert_whose_outputs_are_zero_contributes_nothing(tmp_path, model_type):
    folder = write_checkpoint(tmp_path, model_type)
    model, plain = load_huggingface(folder), plain_model(folder)
    before_BSV, records = run(model)
    expert = int(records[1].load_E.argmax())
    outputs = model.expert_outputs()
    assert {layer: len(tensors) for layer, tensors in outputs.items()} == dict.fromkeys((0, 1), 2 if model_type == "gpt_oss" else 1)
    for tensor in outputs[1]:
        assert tensor.shape[0] == NUM_EXPERTS
        tensor.data[expert] = 0

    def drop(module, inputs):
        x_TD, ids_TK, weights_TK = inputs
        return x_TD, ids_TK, torch.where(ids_TK == expert, 0, weights_TK)

    routing_modules(plain)[1].experts.register_forward_pre_hook(drop)
    with torch.no_grad():
        expected_BSV = plain(input_ids=IDS_BS).logits
    after_BSV = run(model)[0]
    torch.testing.assert_close(after_BSV, expected_BSV)
    assert (after_BSV - before_BSV).abs().max() > 0.01


def test_hooks_last_for_a_call_and_models_do_not_mix(tmp_path):
    plain = plain_model(write_checkpoint(tmp_path / "mixtral", "mixtral"))
    model = HuggingFaceModel(plain, routed_layers(plain), tmp_path)
    other = load_huggingface(write_checkpoint(tmp_path / "gpt_oss", "gpt_oss"))

    def hooks():
        return [hook for module in plain.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]

    before = hooks()
    loads = [record.load_E.tolist() for record in run(model)[1]]
    assert hooks() == before
    with pytest.raises(RunError):
        run(model, torch.tensor([[VOCAB]]))
    assert hooks() == before
    run(other)
    assert [record.load_E.tolist() for record in run(model)[1]] == loads


def test_what_evaluation_asks_of_a_model(tmp_path):
    folder = write_checkpoint(tmp_path, "olmoe")
    model = load_huggingface(folder)
    assert (model.model_type, model.vocab_size, model.max_seq_len, model.is_causal) == ("olmoe", VOCAB, 32, True)
    assert model.eval() is model and model.to("cpu") is model
    assert next(iter(model.parameters())).device.type == "cpu"
    collector = LoadCollector()
    batch = Batch(IDS_BS[:, :-1], IDS_BS[:, 1:], {})
    found = evaluate(model, [batch], num_bytes=100, precision="float32", observe=lambda batch, records: collector.add(records))
    with torch.no_grad():
        logits_BSV = plain_model(folder)(input_ids=batch.ids_BS).logits
    assert found.loss == pytest.approx(F.cross_entropy(logits_BSV.flatten(0, 1), batch.targets_BS.flatten()).item(), rel=1e-5)
    assert (found.tokens, found.is_masked) == (24, False)
    first, second = collector.report().layers
    assert (first.num_experts, first.top_k, first.dropped_fraction) == (NUM_EXPERTS, 3.0, 0.0)
    assert sum(second.importance) == pytest.approx(1)


def test_transformers_is_quiet_and_its_logging_left_as_it_was(tmp_path, capfd):
    from transformers.utils import logging as their_logging

    class Messages(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.said.append(record.getMessage())

    folder, messages = write_checkpoint(tmp_path, "mixtral"), Messages()
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"surplus": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    their_logging.set_verbosity(logging.INFO)
    their_logging.add_handler(messages)
    try:
        plain = plain_model(folder)
        assert any("surplus" in message for message in messages.said)
        plain.register_forward_pre_hook(lambda *_: their_logging.get_logger("transformers.models").warning("a slow kernel"))
        capfd.readouterr()
        messages.said.clear()

        load_huggingface(folder)
        run(HuggingFaceModel(plain, routed_layers(plain), folder))
        assert messages.said == []
        assert capfd.readouterr() == ("", "")
        assert their_logging.get_verbosity() == logging.INFO
        assert their_logging.is_progress_bar_enabled()
    finally:
        their_logging.remove_handler(messages)
        their_logging.set_verbosity_warning()


def test_tied_embeddings_are_not_missing(tmp_path):
    folder = write_checkpoint(tmp_path, "mixtral", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert run(load_huggingface(folder))[1][0].load_E.sum() == 3 * NUM_TOKENS
