"""Tokenizers give back the text that they were given, and are the same whoever trains them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moecli.data.tokenizer import END_OF_TEXT, Tokenizer
from moecli.data.tokenizer_config import (
    TOKENIZERS,
    BPETokenizerConfig,
    ByteTokenizerConfig,
    CharTokenizerConfig,
    TokenizerFileConfig,
)
from moecli.errors import DataError, MachineError

TEXTS = ["the cat sat on the mat\n" * 20, "def f(x):\n    return x  # é€😀\n" * 20, f"a {END_OF_TEXT} b"]
CONFIGS = {
    "byte": ByteTokenizerConfig(),
    "char": CharTokenizerConfig(),
    "bpe": BPETokenizerConfig(vocab_size=280),
}


@cache
def built(kind):
    return CONFIGS[kind].build(iter(TEXTS))


def foreign(**vocabulary):
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2, **vocabulary}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return inner


@pytest.mark.parametrize("kind", CONFIGS)
@settings(deadline=None)
@given(data=st.data())
def test_round_trip(kind, data):
    known = st.characters(exclude_categories=["Cs"]) if kind != "char" else st.sampled_from(sorted(set("".join(TEXTS))))
    text = data.draw(st.text(known))
    assert built(kind).decode(built(kind).encode(text)) == text


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_characters_of_the_end_of_text_are_not_its_token(kind):
    tokenizer = built(kind)
    ids = tokenizer.encode(f"a {END_OF_TEXT} b")
    assert tokenizer.end_of_text_id not in ids
    assert tokenizer.decode(ids) == f"a {END_OF_TEXT} b"
    assert tokenizer.decode([tokenizer.end_of_text_id, *ids, tokenizer.end_of_text_id]) == f"a {END_OF_TEXT} b"


@pytest.mark.parametrize("kind", CONFIGS)
def test_saved_and_loaded_it_is_the_same(tmp_path, kind):
    path = tmp_path / "tokenizer.json"
    built(kind).save(path)
    loaded = Tokenizer.load(path)
    assert loaded.content_hash == built(kind).content_hash
    assert (loaded.vocab_size, loaded.end_of_text_id) == (built(kind).vocab_size, built(kind).end_of_text_id)
    assert [loaded.encode(text) for text in TEXTS] == [built(kind).encode(text) for text in TEXTS]
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_batches_agree_with_single_texts(kind):
    tokenizer = built(kind)
    single = [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == single
    encodings = tokenizer.encode_batch_with_offsets(TEXTS)
    assert [encoding.ids for encoding in encodings] == single
    assert [len(encoding.offsets) for encoding in encodings] == [len(ids) for ids in single]


def test_byte_ids_are_the_bytes():
    tokenizer = built("byte")
    assert tokenizer.encode("a é") == [97, 32, 0xC3, 0xA9]
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (257, 256)
    assert tokenizer.encode_batch_with_offsets([" é."])[0].offsets == [(0, 1), (1, 2), (1, 2), (2, 3)]


def test_char_vocabulary_by_hand():
    tokenizer = CharTokenizerConfig().build(iter(["ba\n", "ab€"]))
    # 0 is <unk>, then the characters in their order: "\n", "a", "b", "€"; last the end of text.
    assert tokenizer.encode("ab\n€x") == [2, 3, 1, 4, 0]
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (6, 5)
    assert tokenizer.encode("\n\n\nxy") == [1, 1, 1, 0, 0]


def test_char_leaves_rare_characters_out():
    tokenizer = CharTokenizerConfig(min_count=2).build(iter(["ab", "a"]))
    assert tokenizer.encode("ab") == [1, 0]
    assert tokenizer.vocab_size == 3


def test_bpe_reaches_its_vocabulary_and_merges():
    tokenizer = built("bpe")
    assert tokenizer.vocab_size == 280
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0]) / 2


def test_bpe_says_how_large_the_vocabulary_can_be():
    with pytest.raises(DataError) as caught:
        BPETokenizerConfig(vocab_size=1000).build(iter(["abab"]))
    # 256 bytes, the end of text, and "ab": "abab" occurs once, and a merge needs two.
    assert "vocab_size is 1,000" in str(caught.value)
    assert "258 at most" in str(caught.value)
    assert "set data.tokenizer.vocab_size to 258 or less" in caught.value.next_step
    assert BPETokenizerConfig(vocab_size=258).build(iter(["abab"])).vocab_size == 258


def test_bpe_below_the_bytes_is_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 257"):
        BPETokenizerConfig(vocab_size=256)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_training_is_the_same_in_every_process(kind):
    # Many pairs are equally frequent here, so that the order in which ties are broken shows.
    texts = ["ab cd ef gh ij kl mn op qr st uv wx yz", "ba dc fe hg ji lk nm po rq ts vu xw zy"] * 2
    script = (
        "import sys, json; from moecli.data.tokenizer_config import *; kind, options, texts = json.loads(sys.argv[1]);"
        "print(TOKENIZERS[kind](**options).build(iter(texts)).content_hash)"
    )
    options = {"vocab_size": 270} if kind == "bpe" else {}
    hashes = set()
    for seed, parallel in (("0", "false"), ("1", "true"), ("2", "true")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel}
        command = [sys.executable, "-c", script, json.dumps([kind, options, texts])]
        hashes.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert hashes == {TOKENIZERS[kind](**options).build(iter(texts)).content_hash + "\n"}


def test_training_prints_nothing(capfd):
    BPETokenizerConfig(vocab_size=280).build(iter(TEXTS))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_tokenizer_from_a_file(tmp_path, in_folder):
    foreign(**{"</s>": 3}).save(str(tmp_path / "tokenizer.json"))
    tokenizer = TokenizerFileConfig(path=str(tmp_path if in_folder else tmp_path / "tokenizer.json")).build(iter([]))
    assert tokenizer.encode("hello world") == [1, 2]
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (4, 3)


def test_an_end_of_text_is_added_where_there_is_none():
    tokenizer = Tokenizer(foreign())
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (4, 3)


def test_the_vocabulary_reaches_to_the_largest_id():
    assert Tokenizer(foreign(**{"<eos>": 9})).vocab_size == 10


def test_a_foreign_tokenizer_adds_nothing_and_cuts_nothing_off():
    inner = foreign(**{"</s>": 3})
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])
    inner.enable_truncation(2)
    inner.enable_padding(length=8)
    tokenizer = Tokenizer(inner)
    assert tokenizer.encode("hello hello world") == [1, 1, 2]
    assert tokenizer.encode_batch(["hello", "hello hello world"]) == [[1], [1, 1, 2]]


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"version": "1.0", "model"'])
def test_what_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        TokenizerFileConfig(path=str(path)).build(iter([]))
    assert str(path) in str(caught.value)
    assert "tokenizer.json" in caught.value.next_step


def test_a_name_on_the_hub_without_network(monkeypatch):
    def unreachable(name):
        raise OSError("can't reach the hub\nmany more lines")

    monkeypatch.setattr(tokenizers.Tokenizer, "from_pretrained", unreachable)
    with pytest.raises(DataError) as caught:
        TokenizerFileConfig(path="owner/name").build(iter([]))
    assert "data.tokenizer.path 'owner/name'" in str(caught.value)
    assert "can't reach the hub" in str(caught.value)
    assert "many more lines" not in str(caught.value)
    assert "needs the network" in caught.value.next_step


def test_saving_where_nothing_can_be_written(tmp_path):
    with pytest.raises(MachineError) as caught:
        built("byte").save(tmp_path / "missing" / "tokenizer.json")
    assert str(tmp_path / "missing") in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_table(kind):
    config = TOKENIZERS[kind].model_validate({"kind": kind, **({"path": "a"} if kind == "file" else {})})
    assert config.kind == kind
    assert all(name == "kind" or field.description for name, field in TOKENIZERS[kind].model_fields.items())


@pytest.mark.parametrize("text", ["plain words, twice: plain words", "naïve – “quotes” 🙂🙂 日本語\n\ttab", " leading and trailing "])
def test_the_pieces_of_a_text_are_the_text_and_one_for_each_token(text):
    for config in (ByteTokenizerConfig(), BPETokenizerConfig(vocab_size=262)):
        tokenizer = config.build(iter([text * 50]))
        ids = tokenizer.encode(text)
        pieces = tokenizer.pieces(ids)
        assert len(pieces) == len(ids) and "".join(pieces) == text


def test_a_character_in_several_tokens_is_the_piece_of_the_last():
    tokenizer = ByteTokenizerConfig().build(iter(()))
    assert tokenizer.pieces(tokenizer.encode("aé🙂")) == ["a", "", "é", "", "", "", "🙂"]


def test_special_tokens_and_ids_beyond_the_vocabulary_have_names():
    tokenizer = ByteTokenizerConfig().build(iter(()))
    assert tokenizer.pieces([256, ord("a"), 257]) == ["<|endoftext|>", "a", "[257]"]
    assert tokenizer.token_text(ord("a")) == "a" and tokenizer.token_text(0xC3) == "Ã"


def test_a_decoder_that_strips_the_first_space_keeps_those_inside():
    """Tokenizers of the Llama kind write a space as ▁ and drop the one at the beginning of a text."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    inner = Inner(models.WordLevel({"▁one": 0, "▁two": 1, "<unk>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = Tokenizer(inner)
    assert tokenizer.pieces(tokenizer.encode("one two two")) == ["one", " two", " two"]


@pytest.mark.parametrize("number", [2**24, 2**31 - 1, 2**32 - 1])
def test_an_id_that_no_model_could_have_is_refused(tmp_path, number):
    content = json.loads(built("byte").json)
    content["model"]["vocab"]["a"] = number
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"tokenizer\.json: a token has the id {number:,}\n  allowed: ids from 0 to 16,777,215"):
        Tokenizer.load(path)


def test_a_file_at_which_the_library_panics_is_no_tokenizer(tmp_path):
    """What it raises then is no Exception."""
    content = json.loads(built("byte").json)
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": ""}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer: Precompiled"):
        Tokenizer.load(path)


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=r"tokenizer\.json: can't be read: no regular file, where a file belongs"):
        Tokenizer.load(tmp_path / "tokenizer.json")
