"""`moecli recipes`: list, show, copy and validate recipes.

Knows its options. Must not know what a recipe means.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moecli.cli import console
from moecli.cli.options import SetOption

recipes_app = typer.Typer(no_args_is_help=True, help="The recipes that ship with moecli: list, show, copy, validate.")


@recipes_app.command("list")
def list_command() -> None:
    """Name the recipes that ship with moecli, each with the first line of its file."""
    from moecli.recipe.shipped import shipped_recipes

    out = console.stdout()
    recipes = shipped_recipes()
    width = max(len(name) for name in recipes)
    for name, path in recipes.items():
        first_line = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        out.print(f"{name:<{width}}  {first_line}", markup=False, highlight=False, soft_wrap=True)


@recipes_app.command("show")
def show_command(
    recipe: Annotated[str, typer.Argument(help="A name from the list, or a file.", show_default=False)],
    overrides: SetOption = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Show every key, defaults filled in.")] = False,
) -> None:
    """Print a recipe, as it stands in its file or with every key."""
    from moecli.recipe.load import dump_recipe, load_recipe, read_recipe_text
    from moecli.recipe.shipped import find_recipe

    if resolved or overrides:
        loaded = load_recipe(recipe, overrides or [])
        console.print_notices(console.stderr(), loaded.notices)
        text = dump_recipe(loaded.recipe)
    else:
        text = read_recipe_text(find_recipe(recipe))
    console.stdout().print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)


@recipes_app.command("copy")
def copy_command(
    recipe: Annotated[str, typer.Argument(help="A name from the list.", show_default=False)],
    target: Annotated[Path | None, typer.Argument(help="Where to. Default: <name>.yaml here.", show_default=False)] = None,
) -> None:
    """Copy a recipe to a file of your own."""
    from moecli.data.disk import disk_errors, write_text_whole
    from moecli.errors import RunError
    from moecli.recipe.load import read_recipe_text
    from moecli.recipe.shipped import find_recipe

    source = find_recipe(recipe)
    target = target or Path(source.name)
    if target.exists():
        raise RunError("there is something here already", where=str(target), next_step="give another file to copy to")
    if not target.parent.is_dir():
        raise RunError("there is no such folder", where=str(target.parent), next_step="make it, or give another file to copy to")
    with disk_errors(str(target), "free some space there, or give another file to copy to"):
        write_text_whole(target, read_recipe_text(source))
    console.stdout().print(f"wrote {target}; next: moecli train {target}", markup=False, highlight=False, soft_wrap=True)


@recipes_app.command("validate")
def validate_command(
    recipes: Annotated[list[str], typer.Argument(help="Recipe files or names.", show_default=False)],
    overrides: SetOption = None,
) -> None:
    """Check recipes without reading data or building a model."""
    from moecli.errors import RecipeError
    from moecli.recipe.load import load_recipe

    broken = False
    for recipe in recipes:
        try:
            console.print_notices(console.stderr(), load_recipe(recipe, overrides or []).notices)
            console.stdout().print(f"{recipe}: valid", markup=False, highlight=False, soft_wrap=True)
        except RecipeError as error:
            broken = True
            console.print_error(str(error))
    if broken:
        raise typer.Exit(RecipeError.exit_code)
