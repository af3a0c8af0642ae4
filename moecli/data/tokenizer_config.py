"""The configs of tokenizers: which one, and how it is made or found.

Knows the library `tokenizers`, which is imported when a tokenizer is made. Must not know corpora, splits or the cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Interval

from moecli.config import LARGEST, KindConfig, PositiveInt
from moecli.data.disk import in_home
from moecli.data.tokenizer import Tokenizer
from moecli.errors import DataError

if TYPE_CHECKING:
    import tokenizers

UNKNOWN = "<unk>"
NUM_BYTES = 256


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
