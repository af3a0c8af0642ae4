"""The recipe of a run that is imported from Hugging Face, and the text that it will be trained on, if one was given.

Knows recipes and the shape of a checkpoint. Must not know weights, nor how a class names its keys.
"""

from __future__ import annotations

import re
from pathlib import Path

from moecli.convert.hf_folder import HuggingFaceShape
from moecli.convert.start import changed_fields, start_problems
from moecli.data.config import DataConfig
from moecli.data.corpora import FilesCorpus
from moecli.data.prepare import prepare
from moecli.data.tokenizer import Tokenizer
from moecli.data.tokenizer_config import TokenizerFileConfig
from moecli.errors import ConvertError
from moecli.recipe.load import LoadedRecipe, dump_recipe, load_recipe, parse_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.convert_request import UNKNOWN_CORPUS, ConvertRequest
from moecli.workflows.run_dir import RunDir

# A model may take far longer texts than an evaluation should cut a text into.
MAX_SEQ_LEN = 2048


def imported_recipe(request: ConvertRequest, shape: HuggingFaceShape) -> LoadedRecipe:
    """A recipe of the checkpoint's shape that reads no text, or the request's own recipe, with the request's overrides laid over it.

    Raises:
        ConvertError: the weights can't be those of its model.
        RecipeError: it can't be read, or something in it is wrong.
    """
    if request.recipe is None:
        loaded = parse_recipe(dump_recipe(_own_recipe(request.target, shape)), "the recipe of the imported model", request.overrides)
    else:
        loaded = load_recipe(request.recipe, request.overrides)
    problems = [problem.under("model") for problem in start_problems(changed_fields(shape.config, loaded.recipe.model))]
    if problems:
        lines = [f"  {problem.field}: {problem.what} (allowed: {problem.allowed})" for problem in problems]
        raise ConvertError("\n".join(["the checkpoint's weights can't begin this run:", *lines]), where=loaded.source)
    return loaded


def fingerprint_of_text(recipe: Recipe, tokenizer: Tokenizer, target: Path) -> str | None:
    """Of the text that the run will be trained on; None where none was given.

    Raises:
        ConvertError: the recipe's tokenizer is not the checkpoint's.
        DataError: the text can't be read.
    """
    if is_without_text(recipe):
        return None
    if recipe.data.tokenizer == _own_tokenizer(target):  # not there yet
        return prepare(recipe.data, tokenizer=tokenizer).fingerprint
    data = prepare(recipe.data)
    if data.tokenizer.content_hash != tokenizer.content_hash:
        next_step = f"--set data.tokenizer.kind=file --set data.tokenizer.path={_own_tokenizer(target).path}"
        raise ConvertError("the tokenizer of this recipe is not that of the checkpoint", where="data.tokenizer", next_step=next_step)
    return data.fingerprint


def is_without_text(recipe: Recipe) -> bool:
    """Whether this is the recipe of a model that was imported without a text to train on."""
    corpus = recipe.data.corpus
    return isinstance(corpus, FilesCorpus) and UNKNOWN_CORPUS in corpus.paths


def _own_recipe(target: Path, shape: HuggingFaceShape) -> Recipe:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", target.absolute().name).lstrip("._-")[:100]
    data = DataConfig(
        corpus=FilesCorpus(paths=[UNKNOWN_CORPUS]), tokenizer=_own_tokenizer(target), seq_len=min(shape.max_seq_len, MAX_SEQ_LEN)
    )
    return Recipe(name=name or "imported", data=data, model=shape.config)


def _own_tokenizer(target: Path) -> TokenizerFileConfig:
    return TokenizerFileConfig(path=str(RunDir(target).tokenizer.absolute()))
