"""Tokenizers: text to ids and back.

Knows the library `tokenizers`, which is imported when one is read. Must not know how tokenizers are made, corpora, splits or the cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moecli.data.disk import disk_errors, write_text_whole
from moecli.data.pieces import REPLACEMENT, PieceDecoder
from moecli.data.small_file import read_small
from moecli.errors import DataError

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
# Many times the largest vocabularies there are. Models have a row for each id up to the largest, whether a token has it or not.
LARGEST_ID = 2**24 - 1

# How tokenizers of other projects call the end of a text, in the order in which they are looked for.
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>", "[SEP]")


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of a text: their ids, and for each the half-open range of characters that it stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """A `tokenizers.Tokenizer` that adds nothing to a text, cuts nothing off, and reads no special token out of it.

    Its end-of-text token is the first of END_OF_TEXT_NAMES in its vocabulary; where there is none, "<|endoftext|>" is added.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        names = [name for name in END_OF_TEXT_NAMES if inner.token_to_id(name) is not None]
        end_of_text = names[0] if names else END_OF_TEXT
        inner.add_special_tokens([end_of_text])
        inner.no_truncation()
        inner.no_padding()
        # A text that holds the characters "<|endoftext|>" is not at its end there.
        inner.encode_special_tokens = True
        self._inner = inner
        vocabulary = inner.get_vocab(with_added_tokens=True)
        self.end_of_text_id = vocabulary[end_of_text]
        self.vocab_size = max(vocabulary.values()) + 1
        self._special_ids = {number for number, token in inner.get_added_tokens_decoder().items() if token.special}

    def fill_up(self, vocab_size: int) -> None:
        """Gives the ids from the vocabulary's end up to `vocab_size` special tokens "<|unused-N|>", which no text has."""
        self._inner.add_special_tokens([f"<|unused-{number}|>" for number in range(self.vocab_size, vocab_size)])
        self._special_ids |= set(range(self.vocab_size, vocab_size))
        self.vocab_size = max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._inner.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_batch_with_offsets(self, texts: Sequence[str]) -> list[Encoding]:
        encodings = self._inner.encode_batch(texts, add_special_tokens=False)
        return [Encoding(encoding.ids, encoding.offsets) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special tokens such as the end of text leave nothing in it."""
        return str(self._inner.decode(ids, skip_special_tokens=True))

    def piece_decoder(self) -> PieceDecoder:
        """Decodes token by token; special tokens, and ids that the tokenizer doesn't know (a mask, say), are called by name."""
        return PieceDecoder(self.decode, self._special_name)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, as `piece_decoder` gives it."""
        decoder = self.piece_decoder()
        return [decoder.push(number) for number in ids]

    def unknown_characters(self, text: str) -> str:
        """The characters of a text that only an "unknown" token can stand for, each once."""
        unknown = getattr(self._inner.model, "unk_token", None)
        unknown_id = None if unknown is None else self._inner.token_to_id(unknown)
        encoding = self._inner.encode(text, add_special_tokens=False)
        ranges = [offsets for number, offsets in zip(encoding.ids, encoding.offsets, strict=True) if number == unknown_id]
        return "".join(dict.fromkeys(character for start, end in ranges for character in text[start:end]))

    def token_text(self, number: int) -> str:
        """The text of one token by itself; of a part of a character, its name in the vocabulary."""
        text = "".join(self.pieces([number]))
        return text if text.strip(REPLACEMENT) else str(self._inner.id_to_token(number))

    @property
    def unknown_id(self) -> int | None:
        """The token that stands for what the vocabulary has no other for; None where the tokenizer knows no such token."""
        model = json.loads(self.json)["model"]
        unknown_id: int | None = model.get("unk_id")  # of a unigram model; the others name the token
        return self._inner.token_to_id(model.get("unk_token") or "") if unknown_id is None else unknown_id

    def _special_name(self, number: int) -> str | None:
        if number not in self._special_ids and number < self.vocab_size:
            return None
        return self._inner.id_to_token(number) or f"[{number}]"

    @property
    def json(self) -> str:
        """The whole tokenizer in the format of `tokenizer.json`."""
        return str(self._inner.to_str())

    @property
    def content_hash(self) -> str:
        """SHA-256 of `json`, hexadecimal."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes a `tokenizer.json`, whole or not at all.

        Raises:
            MachineError: the disk refuses.
        """
        with disk_errors(str(path.parent), "free some space, or choose another folder"):
            write_text_whole(path, self.json)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads a `tokenizer.json`.

        Raises:
            DataError: there is none, it is none, or its ids are too large.
        """
        import tokenizers

        next_step = "give the path of a tokenizer.json as the library `tokenizers` writes it"
        try:
            text = read_small(path)
        except OSError as error:
            raise DataError(f"can't be read: {error.strerror}", where=str(path), next_step=next_step) from error
        except UnicodeDecodeError as error:
            raise DataError(f"can't be read: {error}", where=str(path), next_step=next_step) from error
        try:
            tokenizer = cls(tokenizers.Tokenizer.from_str(text))
        except BaseException as error:
            # The library raises no narrower type than Exception; where it panics, one that is none and has no name to import.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise DataError(f"not a tokenizer: {error}", where=str(path), next_step=next_step) from error
        if tokenizer.vocab_size > LARGEST_ID + 1:
            what = f"a token has the id {tokenizer.vocab_size - 1:,}"
            raise DataError(what, where=str(path), allowed=f"ids from 0 to {LARGEST_ID:,}", next_step=next_step)
        return tokenizer
