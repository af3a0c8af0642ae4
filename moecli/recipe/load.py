"""A recipe file, and what `--set` lays over it, to a checked recipe; and a recipe back to YAML.

Knows the order of the steps, and files. Must not know what a recipe holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from typing_extensions import TypeVar

from moecli.config import Config
from moecli.errors import RecipeError
from moecli.recipe.check import check
from moecli.recipe.document import Document
from moecli.recipe.overrides import lay_over
from moecli.recipe.problem import NEXT_STEP, escape
from moecli.recipe.schema import Recipe
from moecli.recipe.shipped import NEXT_STEP as WHERE_RECIPES_ARE
from moecli.recipe.shipped import find_recipe, reason
from moecli.recipe.yaml_source import YamlFault, read_yaml, write_yaml

AnyRecipe = TypeVar("AnyRecipe", bound=Config, default=Recipe)

_LARGEST_FILE = 2**20  # bytes


@dataclass(frozen=True, slots=True)
class LoadedRecipe(Generic[AnyRecipe]):
    """A checked recipe and what the user should hear about it."""

    recipe: AnyRecipe
    notices: tuple[str, ...]
    """What was changed on the way, one sentence each."""
    source: str
    """The file, as errors name it."""


def load_recipe(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    *,
    schema: type[AnyRecipe] = Recipe,  # type: ignore[assignment] # the default of AnyRecipe
) -> LoadedRecipe[AnyRecipe]:
    """The recipe in a file, or a shipped one by its bare name, with every `key.path=value` of `overrides` laid over it.

    Raises:
        RecipeError: there is no such file, it can't be read, or something in it is wrong.
    """
    file = find_recipe(name_or_path)
    return parse_recipe(read_recipe_text(file), escape(str(file)), overrides, schema)


def parse_recipe(
    text: str,
    source: str,
    overrides: Sequence[str] = (),
    schema: type[AnyRecipe] = Recipe,  # type: ignore[assignment] # the default of AnyRecipe
) -> LoadedRecipe[AnyRecipe]:
    """The recipe in a text that errors call `source`.

    Raises:
        RecipeError: something in it is wrong.
    """
    try:
        tree = read_yaml(text)
    except YamlFault as fault:
        raise RecipeError(fault.what, where=f"{source}:{fault.line}:{fault.column}", next_step=NEXT_STEP) from None
    if tree.data is None and not tree.flaws:
        raise RecipeError("the recipe is empty", where=source, next_step=WHERE_RECIPES_ARE)
    if not isinstance(tree.data, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=f"{source}:{tree.lines[()]}", next_step=NEXT_STEP)
    document = Document.from_file(tree, source)
    notices = lay_over(document, overrides, schema)
    return LoadedRecipe(check(document, schema, source), notices, source)


def dump_recipe(recipe: Config) -> str:
    """The whole recipe as YAML, defaults included, in the order of the schema. Loading it gives an equal recipe."""
    return write_yaml(recipe.model_dump(mode="json"))


def read_recipe_text(file: Path) -> str:
    """The text of a recipe file.

    Raises:
        RecipeError: it can't be read, is too large, or is not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise RecipeError(f"can't be read: {reason(error)}", where=escape(str(file)), next_step=WHERE_RECIPES_ARE) from None
    if len(content) > _LARGEST_FILE:
        raise RecipeError(f"more than {_LARGEST_FILE} bytes: this is no recipe", where=escape(str(file)), next_step=WHERE_RECIPES_ARE)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"the byte 0x{content[error.start]:02x} is not UTF-8"
        raise RecipeError(what, where=f"{escape(str(file))}:{line}", next_step="save the file as UTF-8") from None
