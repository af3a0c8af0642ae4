"""Names and paths to recipe files."""

from __future__ import annotations

from pathlib import Path

import pytest

import moecli
from moecli.errors import RecipeError
from moecli.recipe.shipped import find_recipe, shipped_recipes


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed wheel with two recipes; the working directory is empty."""
    package = tmp_path / "site-packages" / "moecli"
    recipes = package / "recipes"
    recipes.mkdir(parents=True)
    for name in ("quickstart.yaml", "sparse-vs-dense.yaml", "README.md"):
        (recipes / name).write_text("name: x\n")
    monkeypatch.setattr(moecli, "__file__", str(package / "__init__.py"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return recipes


def test_recipes_of_a_wheel(installed: Path) -> None:
    assert shipped_recipes() == {"quickstart": installed / "quickstart.yaml", "sparse-vs-dense": installed / "sparse-vs-dense.yaml"}


def test_recipes_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moecli").mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "own.yaml").write_text("name: x\n")
    monkeypatch.setattr(moecli, "__file__", str(tmp_path / "moecli" / "__init__.py"))
    assert shipped_recipes() == {}  # site-packages/recipes is somebody else's
    (tmp_path / "pyproject.toml").write_text("")
    assert shipped_recipes() == {"own": tmp_path / "recipes" / "own.yaml"}


def test_a_bare_name_is_a_shipped_recipe(installed: Path) -> None:
    assert find_recipe("quickstart") == installed / "quickstart.yaml"


def test_a_file_comes_before_a_shipped_recipe_and_a_folder_after_it(installed: Path) -> None:
    Path("quickstart").mkdir()
    assert find_recipe("quickstart") == installed / "quickstart.yaml"
    Path("sparse-vs-dense").write_text("name: mine\n")
    assert find_recipe("sparse-vs-dense") == Path("sparse-vs-dense")


NEXT = "  next: `moecli recipes list` shows the recipes that ship with moecli, `moecli recipes copy quickstart` begins one of your own"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("quickstrt", "quickstrt: there is no such file; did you mean quickstart?"),
        ("recipes/quickstart.yaml", "recipes/quickstart.yaml: there is no such file; did you mean quickstart?"),
        ("mine.yaml", "mine.yaml: there is no such file; did you mean mine-1.yaml?"),
        ("zzz", "zzz: there is no such file"),
        ("sub", "sub: is a folder, not a recipe; did you mean sub/a.yaml or sub/b.yml?"),
        ("/dev/null", "/dev/null: is not a regular file"),
        ("a\0b", "a\\x00b: there is no such file"),
        ("\udcff", "\\udcff: there is no such file"),
        ("", ".: is a folder, not a recipe; did you mean mine-1.yaml?"),
    ],
)
def test_no_such_recipe(installed: Path, name: str, line: str) -> None:
    Path("sub").mkdir()
    for file in ("mine-1.yaml", "sub/a.yaml", "sub/b.yml", "sub/c.txt"):
        Path(file).write_text("name: x\n")
    with pytest.raises(RecipeError) as caught:
        find_recipe(name)
    assert str(caught.value) == f"{line}\n{NEXT}"


def test_a_name_that_no_file_can_have(installed: Path) -> None:
    # what the system says depends on the version of Python
    with pytest.raises(RecipeError, match=r"^x{5000}: (can't be read: file name too long|there is no such file)\n"):
        find_recipe("x" * 5000)
