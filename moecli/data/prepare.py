"""From a data config to memory-mapped ids: read, split, tokenizer, ids, and only what the cache does not have yet.

Knows every part of this room but batches. Must not know models or training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from moecli.data.cache import Cache, cache_folder
from moecli.data.config import DataConfig
from moecli.data.corpora import Corpus
from moecli.data.disk import write_text_whole
from moecli.data.encode import encode_documents
from moecli.data.split import TEXT, TRAIN, VALIDATION, SplitCorpus
from moecli.data.token_split import LabelTable, SplitWriter, TokenSplit, id_type, open_split
from moecli.data.tokenizer import Tokenizer
from moecli.data.tokenizer_config import TokenizerConfig
from moecli.errors import DataError

# To be raised by whoever changes what an entry of the cache holds or how it is computed.
CACHE_VERSION = 1


@dataclass(frozen=True)
class PreparedData:
    """All that training and evaluation need of a corpus."""

    tokenizer: Tokenizer
    train: TokenSplit
    validation: TokenSplit
    fingerprint: str
    """SHA-256, hexadecimal, of the texts, their labels, their split and the tokenizer."""


def prepare(config: DataConfig, *, tokenizer: Tokenizer | None = None) -> PreparedData:
    """Reads the corpus, splits it by document, and turns it into ids.

    Args:
        config: the data part of a recipe.
        tokenizer: that of a trained run; then none is made, and `config.tokenizer` does not count.

    Raises:
        DataError: the text can't be read, or is not enough.
        MachineError: the disk of the cache refuses.
    """
    corpus = SplitCorpus.hold_out(config.corpus, config.validation_fraction, config.validation_max_bytes)
    cache = Cache(cache_folder(config.cache_dir))
    if tokenizer is None:
        tokenizer = _obtain_tokenizer(config.tokenizer, corpus, cache)
    fingerprint = _fingerprint(corpus, tokenizer)
    splits = _obtain_splits(corpus, tokenizer, cache, fingerprint)
    return PreparedData(tokenizer, splits[TRAIN], splits[VALIDATION], fingerprint)


def prepare_text(corpus: Corpus, tokenizer: Tokenizer, cache_dir: str | None = None) -> TokenSplit:
    """All documents of a corpus, repeated ones too, as one split named "text".

    Raises:
        DataError: the text can't be read, or there is none.
        MachineError: the disk of the cache refuses.
    """
    whole = SplitCorpus.whole(corpus)
    return _obtain_splits(whole, tokenizer, Cache(cache_folder(cache_dir)), _fingerprint(whole, tokenizer))[TEXT]


def _obtain_tokenizer(config: TokenizerConfig, corpus: SplitCorpus, cache: Cache) -> Tokenizer:
    # Only the train split: a vocabulary that has seen the validation text would flatter the model.
    texts = (document.text for document, size in corpus.documents() if corpus.split_of[size.digest] == TRAIN)
    if not config.is_trained:
        return config.build(texts)

    def read(folder: Path) -> Tokenizer | None:
        try:
            return Tokenizer.load(folder / "tokenizer.json")
        except DataError:
            return None

    def build(folder: Path) -> None:
        write_text_whole(folder / "tokenizer.json", config.build(texts).json)

    digests = (digest.hex() for digest, name in corpus.split_of.items() if name == TRAIN)
    return cache.obtain(f"tokenizer-{_key(chain([config.model_dump_json()], digests))}", read, build)


def _obtain_splits(corpus: SplitCorpus, tokenizer: Tokenizer, cache: Cache, fingerprint: str) -> dict[str, TokenSplit]:
    def build(folder: Path) -> None:
        tables = {kind: LabelTable(kind) for kind in corpus.corpus.label_kinds()}
        ids = id_type(tokenizer.vocab_size)
        with ExitStack() as stack:
            writers = {}
            for name in corpus.names:
                writers[name] = stack.enter_context(SplitWriter(folder, name, ids, tokenizer.end_of_text_id, tables))
            for encoded in encode_documents(corpus.documents(), tokenizer, tables):
                writers[corpus.split_of[encoded.size.digest]].add(encoded.ids, encoded.labels, encoded.size.num_bytes)
            described = {name: writer.finish() for name, writer in writers.items()}
        write_text_whole(folder / "splits.json", json.dumps(described))

    return cache.obtain(f"tokens-{fingerprint}", partial(_read_splits, names=corpus.names), build)


def _read_splits(folder: Path, names: Sequence[str]) -> dict[str, TokenSplit] | None:
    """None where the entry is not there or not whole."""
    try:
        described = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
        splits = {name: open_split(folder, name, described[name]) for name in names}
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = {name: split for name, split in splits.items() if split is not None}
    return whole if len(whole) == len(splits) else None


def _fingerprint(corpus: SplitCorpus, tokenizer: Tokenizer) -> str:
    documents = (f"{size.digest.hex()} {corpus.split_of[size.digest]} {size.label_key}" for size in corpus.sizes)
    return _key(chain([tokenizer.content_hash, repr(corpus.corpus.label_kinds())], documents))


def _key(parts: Iterable[str]) -> str:
    key = hashlib.sha256(f"version {CACHE_VERSION}".encode())
    for part in parts:
        key.update(f"{len(part)} {part}".encode())
    return key.hexdigest()
