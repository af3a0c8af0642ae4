"""The reported loss by hand, over unequal batches, and free of balance losses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from moecli.data.batches import IGNORED, Batch
from moecli.evaluation.evaluate import Evaluation, evaluate
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import SparseMoEConfig

VOCAB = 11


@pytest.fixture
def model():
    return build_gpt(GPTConfig(d_model=8, num_layers=2, num_heads=2, init_std=0.5, ffn=SparseMoEConfig(num_experts=3)), VOCAB, seed=0)


def batch_of(num_sequences: int, length: int) -> Batch:
    ids_BS = torch.randint(VOCAB, (num_sequences, length + 1))
    return Batch(ids_BS[:, :-1], ids_BS[:, 1:], {})


def test_perplexity_and_bits_per_byte_by_hand():
    # 6 tokens at ln 8 nats = 3 bits each are 18 bits; over 9 bytes, 2 bits per byte.
    evaluation = Evaluation(loss=math.log(8), tokens=6, num_bytes=9)
    assert evaluation.perplexity == pytest.approx(8)
    assert evaluation.bits_per_byte == pytest.approx(2)


def test_a_hopeless_loss_has_an_infinite_perplexity():
    assert Evaluation(loss=1000.0, tokens=1, num_bytes=1).perplexity == math.inf


def test_each_token_counts_once_however_the_batches_are_cut(model):
    batches = [batch_of(3, 7), batch_of(1, 2)]
    evaluation = evaluate(model, batches, num_bytes=50, precision="float32")
    with torch.no_grad():
        nats = [
            F.cross_entropy(model(batch.ids_BS[row : row + 1])[0][0], batch.targets_BS[row], reduction="sum").item()
            for batch in batches
            for row in range(len(batch.ids_BS))
        ]
    assert evaluation.tokens == 3 * 7 + 2
    assert evaluation.loss == pytest.approx(sum(nats) / 23, rel=1e-6)


def test_of_masked_batches_the_predicted_tokens_alone_count_and_there_are_no_bits_per_byte():
    config = GPTConfig(d_model=8, num_layers=2, num_heads=2, init_std=0.5, causal=False)
    model = build_gpt(config, VOCAB, seed=0)
    ids_BS, targets_BS = torch.randint(VOCAB, (2, 2, 6))
    targets_BS[0, :4] = IGNORED
    targets_BS[1, 1:] = IGNORED
    batch = Batch(ids_BS, targets_BS, {})
    evaluation = evaluate(model, [batch], num_bytes=50, precision="float32")
    with torch.no_grad():
        log_probs_BSV = model(batch.ids_BS)[0].log_softmax(dim=-1)
    nats = [-log_probs_BSV[row, place, batch.targets_BS[row, place]].item() for row, place in ((0, 4), (0, 5), (1, 0))]
    assert evaluation.tokens == 3
    assert evaluation.loss == pytest.approx(sum(nats) / 3, rel=1e-6)
    assert evaluation.perplexity == pytest.approx(math.exp(sum(nats) / 3), rel=1e-6)
    assert evaluation.is_masked and evaluation.bits_per_byte is None


def test_a_model_that_knows_nothing_pays_ln_vocab(model):
    torch.nn.init.zeros_(model.lm_head.weight)
    assert evaluate(model, [batch_of(2, 5)], num_bytes=10, precision="float32").loss == pytest.approx(math.log(VOCAB))


def test_the_observer_sees_every_batch_with_the_records_of_every_layer(model):
    batches = [batch_of(2, 3), batch_of(1, 3)]
    seen = []
    evaluate(model, batches, num_bytes=10, precision="float32", observe=lambda batch, records: seen.append((len(batch.ids_BS), records)))
    assert [rows for rows, _ in seen] == [2, 1]
    assert all(len(records) == 2 and all(record is not None for record in records) for _, records in seen)


def test_evaluating_changes_nothing(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = evaluate(model, [batch := batch_of(2, 3)], num_bytes=10, precision="float32")
    assert evaluate(model, [batch], num_bytes=10, precision="float32") == first
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
