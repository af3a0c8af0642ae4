"""Verification: every way in which a table can be wrong and still fit is caught, and ties are not taken for errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moecli.convert import hf_folder
from moecli.convert.formats import FORMATS
from moecli.convert.hf_folder import load_gpt
from moecli.convert.peer import load_peer
from moecli.convert.rules import Piece, pieces_of
from moecli.convert.verify import Counterpart, random_ids, verify
from moecli.errors import ConvertError
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from tests.convert.models import CASES, PLAIN, SEQ_LEN, SIZES, VOCAB, config_of, random_model, write_folder

pytest.importorskip("transformers")
IDS_BS = random_ids(VOCAB, SEQ_LEN)
MOE = [name for name in FORMATS if name not in ("llama", "qwen3")]
EXCHANGED = {"gate_proj": "up_proj", "up_proj": "gate_proj", "w1": "w3", "w3": "w1"}


def experts_swapped(piece: Piece) -> Piece:
    parts = piece.theirs.split(".")
    if "experts" in parts:
        number = parts.index("experts") + 1
        parts[number] = {"0": "1", "1": "0"}.get(parts[number], parts[number])
    return replace(piece, theirs=".".join(parts))


def gate_and_up_exchanged(piece: Piece) -> Piece:
    return replace(piece, theirs=".".join(EXCHANGED.get(part, part) for part in piece.theirs.split(".")))


def router_rolled(piece: Piece) -> Piece:
    if not piece.ours.endswith("router.weight"):
        return piece
    return replace(piece, index=(torch.arange(piece.shape[0]).roll(1),))


def heads_reversed(piece: Piece) -> Piece:
    if "q_proj" not in piece.ours:
        return piece
    return replace(piece, index=(torch.arange(piece.shape[0]).flip(0),))


WRONG_TABLES = [(name, wrong) for name in MOE for wrong in (experts_swapped, gate_and_up_exchanged, router_rolled, heads_reversed)]
WRONG_TABLES += [(name, wrong) for name in ("llama", "qwen3") for wrong in (gate_and_up_exchanged, heads_reversed)]


@pytest.mark.parametrize("std", [0.3, 0.02], ids=["trained", "fresh"])
@pytest.mark.parametrize(("name", "wrong"), WRONG_TABLES, ids=lambda value: getattr(value, "__name__", value))
def test_a_table_that_is_wrong_in_both_directions_is_caught(name, wrong, std, tmp_path, monkeypatch):
    model = random_model(config_of(PLAIN[name]), std)
    verify(model, load_peer(write_folder(model, tmp_path / "right")), IDS_BS)

    monkeypatch.setattr(hf_folder, "pieces_of", lambda rules, shapes: [wrong(piece) for piece in pieces_of(rules, shapes)])
    folder = write_folder(model, tmp_path / "wrong")
    back, _ = load_gpt(folder)
    # There and back shows nothing, and no shape is off.
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(ConvertError, match="the conversion doesn't hold"):
        verify(model, load_peer(folder), IDS_BS)


@pytest.mark.parametrize("name", MOE)
def test_a_transposed_router_is_caught(name, tmp_path):
    # As many experts as the model is wide: its shape stays.
    options = CASES[PLAIN[name]][1]
    model = random_model(GPTConfig.model_validate(SIZES | options | {"ffn": options["ffn"] | {"num_experts": SIZES["d_model"]}}))
    folder = write_folder(model, tmp_path)
    verify(model, load_peer(folder), IDS_BS)
    tensors = load_file(folder / "model.safetensors")
    turned = {key: tensor.T.contiguous() if key.endswith(".gate.weight") else tensor for key, tensor in tensors.items()}
    assert any(not torch.equal(turned[key], tensors[key]) for key in tensors)
    save_file(turned, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConvertError, match="instead of"):
        verify(model, load_peer(folder), IDS_BS)


@pytest.mark.parametrize(
    ("key", "what"), [("lm_head.weight", "transformers finds missing tensors"), ("extra", "transformers finds unexpected tensors")]
)
def test_what_transformers_would_fill_in_or_pass_over_is_caught(key, what, tmp_path):
    folder = write_folder(random_model(config_of(PLAIN["mixtral"])), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    if tensors.pop(key, None) is None:
        tensors[key] = torch.ones(1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConvertError, match=what):
        load_peer(folder)


def same(model: GPT) -> Counterpart:
    """A counterpart that is the model itself."""

    def counterpart(ids_BS: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        logits_BSV, records = model(ids_BS)
        choices = {layer: record.routing.expert_ids_A.view(ids_BS.numel(), -1) for layer, record in enumerate(records) if record}
        return logits_BSV, choices

    return counterpart


def altered(counterpart: Counterpart, change: Callable[[Tensor, dict[int, Tensor]], None]) -> Counterpart:
    def changed(ids_BS: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        logits_BSV, choices = counterpart(ids_BS)
        change(logits_BSV, choices)
        return logits_BSV, choices

    return changed


@pytest.fixture
def model() -> GPT:
    return random_model(config_of(PLAIN["mixtral"]))


def test_the_same_model_differs_by_nothing(model):
    proof = verify(model, same(model), IDS_BS)
    assert proof.max_abs_logit_diff == 0
    assert proof.largest_logit == pytest.approx(model(IDS_BS)[0].abs().max().item())


@pytest.mark.parametrize(("share", "holds"), [(0.9, True), (1.1, False)])
def test_how_far_a_logit_may_be(model, share, holds):
    # 1e-4 of the root mean square of that position's logits.
    logits_V = model(IDS_BS)[0][1, 5]
    moved = share * 1e-4 * (sum(x * x for x in logits_V.tolist()) / VOCAB) ** 0.5

    def change(logits_BSV: Tensor, choices: dict[int, Tensor]) -> None:
        logits_BSV[1, 5, 7] += moved

    if holds:
        assert verify(model, altered(same(model), change), IDS_BS).max_abs_logit_diff == pytest.approx(moved, rel=2e-2)
        return
    with pytest.raises(ConvertError, match="logits differ by"):
        verify(model, altered(same(model), change), IDS_BS)


def test_logits_that_are_no_numbers_do_not_hold(model):
    with pytest.raises(ConvertError, match="logits differ by nan"):
        verify(model, altered(same(model), lambda logits_BSV, choices: logits_BSV.fill_(float("nan"))), IDS_BS)  # type: ignore[arg-type, return-value]


def test_logits_that_are_all_zero_show_nothing(model):
    with torch.no_grad():
        model.norm.weight.zero_()
    with pytest.raises(ConvertError, match="every logit is 0, so that nothing can be compared"):
        verify(model, same(model), IDS_BS)


def test_the_experts_that_tokens_chose_are_told(model):
    # With a router of 0 every expert of layer 1 is as good, and all tokens take the same two.
    with torch.no_grad():
        model.feed_forwards()[1].router.weight.zero_()
    _, records = model(IDS_BS)
    chosen = {(layer, expert) for layer, record in enumerate(records) for expert in record.routing.expert_ids_A.tolist()}
    proof = verify(model, same(model), IDS_BS)
    assert proof.visited == chosen
    assert (proof.num_experts, sum(layer == 1 for layer, _ in chosen)) == (3 * 8, 2)


def test_another_expert_does_not_hold_and_the_same_in_another_order_does(model):
    def turned(logits_BSV: Tensor, choices: dict[int, Tensor]) -> None:
        choices[1] = choices[1].flip(1)

    def other(logits_BSV: Tensor, choices: dict[int, Tensor]) -> None:
        choices[1] = choices[1].clone()
        choices[1][9, 0] = next(expert for expert in range(8) if expert not in choices[1][9])

    verify(model, altered(same(model), turned), IDS_BS)
    with pytest.raises(ConvertError, match="in layer 1, token 9 has the experts"):
        verify(model, altered(same(model), other), IDS_BS)


def test_a_tie_that_is_broken_otherwise_ends_the_comparison_of_its_row(model):
    # Two experts of layer 2 score the same for every token; for token 40 of 64 (row 1, position 8) the other one is taken.
    with torch.no_grad():
        weight = model.feed_forwards()[2].router.weight
        weight[1] = weight[0]
    _, records = model(IDS_BS)
    chosen_TK = records[2].routing.expert_ids_A.view(-1, 2)
    has_one_T = ((chosen_TK == 0) ^ (chosen_TK == 1)).any(1) & ~(((chosen_TK == 0).any(1)) & ((chosen_TK == 1).any(1)))
    token = int(has_one_T.nonzero()[-1])
    row, position = divmod(token, SEQ_LEN)

    def change(logits_BSV: Tensor, choices: dict[int, Tensor]) -> None:
        choices[2] = choices[2].clone()
        is_tied_K = choices[2][token] <= 1
        choices[2][token][is_tied_K] = 1 - choices[2][token][is_tied_K]
        logits_BSV[row, position:] += 1.0  # what follows from another expert

    proof = verify(model, altered(same(model), change), IDS_BS)
    assert proof.tokens == IDS_BS.numel() - (SEQ_LEN - position)
    assert proof.choices_compared == 2 * (2 * IDS_BS.numel() + proof.tokens)
