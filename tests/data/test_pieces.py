"""Text token by token: whole characters only, and together what the decoder makes of all tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.data.pieces import PieceDecoder
from moecli.data.tokenizer_config import ByteTokenizerConfig, CharTokenizerConfig

BYTES = ByteTokenizerConfig().build(iter(()))


def test_a_character_in_several_tokens_comes_with_its_last():
    decoder = BYTES.piece_decoder()
    # "a" is one byte, "€" three, "😀" four.
    assert [decoder.push(number) for number in "a€😀".encode()] == ["a", "", "", "€", "", "", "", "😀"]


def test_bytes_that_never_become_a_character_are_given_up_after_four():
    decoder = BYTES.piece_decoder()
    assert [decoder.push(0xE9) for _ in range(5)] == ["", "", "", "\ufffd" * 4, ""]
    assert decoder.push(ord("a")) == "\ufffda"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_together_they_are_the_text(text):
    decoder = BYTES.piece_decoder()
    pieces = [decoder.push(number) for number in BYTES.encode(text)]
    assert "".join(pieces) == text
    assert BYTES.pieces(BYTES.encode(text)) == pieces


def test_the_end_of_a_text_is_called_by_name_and_nothing_is_left_of_what_waited():
    decoder = BYTES.piece_decoder()
    assert [decoder.push(number) for number in (0xE2, 256, 0x82, ord("b"), 999)] == ["", "<|endoftext|>", "", "\ufffdb", "[999]"]


def test_what_waits_when_no_more_comes_is_half_a_character():
    decoder = BYTES.piece_decoder()
    assert [decoder.push(number) for number in "a€".encode()[:-1]] == ["a", "", ""]
    assert (decoder.rest(), decoder.rest()) == ("\ufffd", "")
    assert decoder.push(ord("b")) == "b"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_is_gone_on_with_as_if_it_had_come_token_by_token(before, after):
    decoder = BYTES.piece_decoder()
    decoder.go_on_after(BYTES.encode(before))
    assert "".join(decoder.push(number) for number in BYTES.encode(after)) == after


def test_what_a_token_writes_may_depend_on_the_one_before_it():
    # A decoder that joins words with spaces: the first word has none.
    decoder = PieceDecoder(lambda ids: " ".join(f"w{number}" for number in ids), lambda number: None)
    assert [decoder.push(number) for number in (1, 2, 3)] == ["w1", " w2", " w3"]
    decoder.go_on_after([1, 2, 3, 4, 5, 6])
    assert decoder.push(7) == " w7"


@pytest.mark.parametrize(("text", "unknown"), [("abba", ""), ("axbyx", "xy"), ("", "")])
def test_characters_without_a_token_are_told_once_each(text, unknown):
    assert CharTokenizerConfig().build(iter(["ab"])).unknown_characters(text) == unknown
    assert BYTES.unknown_characters(text) == ""
