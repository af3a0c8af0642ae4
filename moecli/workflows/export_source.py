"""What is exported to Hugging Face: a run of moecli, or a folder of another class, open for reading.

Knows both kinds of folders. Must not know what is made of their tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moecli.analysis.hf_folder import is_huggingface_folder
from moecli.convert.hf_folder import TOKENIZER_FILE, check_own_tensors, load_gpt, read_shape
from moecli.convert.rules import Read
from moecli.convert.tensor_files import open_tensors
from moecli.data.tokenizer import Tokenizer
from moecli.model.checkpoint import CONFIG_FILE, read_config
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.manifest import check_manifest
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.opened_run import check_fits
from moecli.workflows.run_dir import RunDir, find_checkpoint


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A model that is open for reading."""

    checkpoint: Path
    config: GPTConfig
    vocab_size: int
    max_seq_len: int
    read: Read
    tokenizer: Tokenizer | None
    special_ids: dict[str, Any]
    """Of a Hugging Face folder: the ids that its config.json names for the begin and the end of a text and for padding."""
    recipe: Recipe | None
    """None of a Hugging Face folder."""
    run: RunDir | None
    model: GPT | None
    """None where it isn't in memory."""


def opened_source(path: Path, *, with_weights: bool) -> AbstractContextManager[ExportSource]:
    """A run's tensors are read one by one; a folder of Hugging Face as a whole, or not at all, where its headers are enough.

    Raises:
        ConvertError: it is damaged, or of a class or shape that moecli can't represent.
        RunError: it is neither, or a run's checkpoint is not as it was written.
    """
    return _huggingface(path, with_weights=with_weights) if is_huggingface_folder(path) else _run(path)


@contextmanager
def _run(path: Path) -> Iterator[ExportSource]:
    run, checkpoint = find_checkpoint(path, or_else="a Hugging Face folder")
    recipe = load_recipe(run.recipe).recipe
    check_manifest(checkpoint)
    config, vocab_size = read_config(checkpoint / CONFIG_FILE)
    tokenizer = Tokenizer.load(run.tokenizer)
    check_fits(config, vocab_size, recipe, tokenizer, checkpoint)
    with open_tensors(checkpoint) as tensors:
        check_own_tensors(tensors, config, vocab_size)
        yield ExportSource(checkpoint, config, vocab_size, recipe.data.seq_len, tensors.read, tokenizer, {}, recipe, run, model=None)


@contextmanager
def _huggingface(folder: Path, *, with_weights: bool) -> Iterator[ExportSource]:
    model, shape = load_gpt(folder) if with_weights else (None, read_shape(folder))
    tokenizer = Tokenizer.load(folder / TOKENIZER_FILE) if (folder / TOKENIZER_FILE).is_file() else None
    weights: dict[str, Tensor] = {} if model is None else model.state_dict()
    yield ExportSource(
        folder, shape.config, shape.vocab_size, shape.max_seq_len, weights.__getitem__, tokenizer, shape.content, None, None, model
    )
