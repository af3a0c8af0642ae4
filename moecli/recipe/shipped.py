"""Where recipes are found: the ones that ship with moecli, by name, and the user's own, by path.

Knows folders and file names. Must not know what is in a recipe.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import moecli
from moecli.errors import RecipeError
from moecli.recipe.problem import escape

NEXT_STEP = "`moecli recipes list` shows the recipes that ship with moecli, `moecli recipes copy quickstart` begins one of your own"


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with moecli, by name."""
    package = Path(moecli.__file__).parent
    folder = package / "recipes"  # an installed wheel
    if not folder.is_dir() and (package.parent / "pyproject.toml").is_file():
        folder = package.parent / "recipes"  # a checkout
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(name_or_path: str | Path) -> Path:
    """The file: a path to one, or the bare name of a recipe that ships with moecli.

    Raises:
        RecipeError: there is no such file.
    """
    path = Path(name_or_path)
    shipped = shipped_recipes()
    try:
        if path.is_file():
            return path
        if str(name_or_path) in shipped:
            return shipped[str(name_or_path)]
        what = "is a folder, not a recipe" if path.is_dir() else "is not a regular file" if path.exists() else "there is no such file"
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be entered, a NUL
        what = f"can't be read: {reason(error)}"
    near = _near_names(path, list(shipped))
    raise RecipeError(what + (f"; did you mean {near}?" if near else ""), where=escape(str(path)), next_step=NEXT_STEP)


def reason(error: Exception) -> str:
    """Why the system refused, in its own words without numbers and paths."""
    return ((isinstance(error, OSError) and error.strerror) or str(error)).lower()


def _near_names(path: Path, shipped: list[str]) -> str:
    """Recipes that may be meant: in the folder that the path is or lies in, and those that ship."""
    near = get_close_matches(path.stem, shipped, n=1, cutoff=0.7)
    try:
        folder = path if path.is_dir() else path.parent
        files = sorted(file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        return " or ".join(near)
    in_folder = files[:3] if folder == path else get_close_matches(path.name, files, cutoff=0.5)
    return " or ".join([escape(str(folder / name)) for name in in_folder] + near)
