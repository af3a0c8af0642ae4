"""Tokenizers: text to ids and back, and the configs that make them.

Knows the library `tokenizers`, which is imported when a tokenizer is made. Must not know corpora, splits or the cache.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Interval

from moecli.config import LARGEST, KindConfig, PositiveInt
from moecli.data.disk import disk_errors, in_home, write_text_whole
from moecli.data.pieces import REPLACEMENT, PieceDecoder
from moecli.errors import DataError

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"
NUM_BYTES = 256

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
            DataError: there is none, or it is none.
        """
        import tokenizers

        next_step = "give the path of a tokenizer.json as the library `tokenizers` writes it"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"can't be read: {error}", where=str(path), next_step=next_step) from error
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises no narrower type
            raise DataError(f"not a tokenizer: {error}", where=str(path), next_step=next_step) from error


class TokenizerConfig(KindConfig, ABC):
    """Base of the tokenizer configs."""

    is_trained: ClassVar[bool]
    """Whether `build` reads the texts."""

    @property
    def known_vocab_size(self) -> int | None:
        """The size of the vocabulary where it is known without the texts."""
        return None

    @abstractmethod
    def build(self, texts: Iterator[str]) -> Tokenizer:
        """The tokenizer, trained on these texts if it is trained at all.

        Raises:
            DataError: the texts don't give what the config asks for, or a file can't be read.
        """


class ByteTokenizerConfig(TokenizerConfig):
    """One token per byte of UTF-8: ids 0 to 255, and 256 for the end of a text."""

    kind: Literal["byte"] = "byte"
    is_trained: ClassVar[bool] = False

    @property
    def known_vocab_size(self) -> int:
        return NUM_BYTES + 1

    def build(self, texts: Iterator[str]) -> Tokenizer:
        return Tokenizer(_byte_level({character: byte for byte, character in enumerate(_byte_characters())}))


class CharTokenizerConfig(TokenizerConfig):
    """One token per character that the training text holds; every other one is "<unk>"."""

    kind: Literal["char"] = "char"
    min_count: PositiveInt = 1
    """Occurrences in the training text that a character needs for a token of its own."""
    is_trained: ClassVar[bool] = True

    def build(self, texts: Iterator[str]) -> Tokenizer:
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as Inner

        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        characters = sorted(character for character, count in counts.items() if count >= self.min_count)
        if not characters:
            what = f"no character stands {self.min_count:,} times in the training text"
            raise DataError(what, where="data.tokenizer.min_count", next_step="lower it")
        vocabulary = {token: number for number, token in enumerate([UNKNOWN, *characters])}
        inner = Inner(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        inner.decoder = decoders.Fuse()
        return Tokenizer(inner)


class BPETokenizerConfig(TokenizerConfig):
    """Byte-pair encoding of UTF-8 bytes, trained on the training split; it can write any text."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: Annotated[int, Interval(ge=NUM_BYTES + 1, le=LARGEST)] = 1024
    """Tokens in all: 256 bytes, the end of text, and merges."""
    is_trained: ClassVar[bool] = True

    @property
    def known_vocab_size(self) -> int:
        return self.vocab_size

    def build(self, texts: Iterator[str]) -> Tokenizer:
        from tokenizers import trainers

        inner = _byte_level({})
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - 1,  # the end of text is the last one
            min_frequency=2,
            initial_alphabet=_byte_characters(),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        tokenizer = Tokenizer(inner)
        if tokenizer.vocab_size != self.vocab_size:
            raise DataError(
                f"vocab_size is {self.vocab_size:,}, but the training text gives a vocabulary of {tokenizer.vocab_size:,} at most",
                where="data.tokenizer",
                next_step=f"set data.tokenizer.vocab_size to {tokenizer.vocab_size} or less, or add text",
            )
        return tokenizer


class TokenizerFileConfig(TokenizerConfig):
    """A tokenizer that is there already: a `tokenizer.json`, a folder that holds one, or the name of a model on the hub."""

    kind: Literal["file"] = "file"
    path: str
    """File, folder or hub name; `~` is the home folder."""
    is_trained: ClassVar[bool] = False

    @property
    def known_vocab_size(self) -> int:
        return self.build(iter(())).vocab_size

    def build(self, texts: Iterator[str]) -> Tokenizer:
        path = in_home(self.path)
        if path.is_dir():
            path /= "tokenizer.json"
        if path.exists() or path.suffix == ".json" or self.path.startswith((".", "/", "~")):
            return Tokenizer.load(path)
        return self._from_hub()

    def _from_hub(self) -> Tokenizer:
        import tokenizers

        try:
            return Tokenizer(tokenizers.Tokenizer.from_pretrained(self.path))
        except Exception as error:  # huggingface_hub, httpx and tokenizers have no common root
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"neither a file nor a folder, and the hub gives no tokenizer of this name: {first_line}",
                where=f"data.tokenizer.path '{self.path}'",
                next_step="give the path of a tokenizer.json; a hub name needs the network",
            ) from error


def _byte_characters() -> list[str]:
    """The character that stands for each byte in byte-level BPE: printable bytes for themselves, the others from 256 on (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    stand_ins = iter(range(NUM_BYTES, 2 * NUM_BYTES))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(NUM_BYTES)]


def _byte_level(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    inner = Inner(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


TOKENIZERS: dict[str, type[TokenizerConfig]] = {
    "byte": ByteTokenizerConfig,
    "char": CharTokenizerConfig,
    "bpe": BPETokenizerConfig,
    "file": TokenizerFileConfig,
}
