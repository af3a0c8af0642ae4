"""The README tells the truth: its commands run, its recipe is the one that ships, its error is what moecli prints."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from moecli.cli import app
from tests.conftest import TINY_RECIPE

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def commands() -> list[list[str]]:
    """Every `moecli ...` line of the bash blocks, in order."""
    lines = [line for text in blocks("bash") for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("moecli ")]


def test_every_command_of_the_readme_runs_in_order(tiny_recipe, capsys):
    """In an empty folder; the quickstart recipe, once copied, is exchanged for a tiny one so that training takes a second."""
    shutil.copy(REPOSITORY / "README.md", "README.md")
    assert len(commands()) >= 8
    ran = []
    for arguments in commands():
        code = app.run(list(arguments), debug=False)
        assert code == 0, f"moecli {shlex.join(arguments)}: {capsys.readouterr().err}"
        ran.append(arguments[0])
        if arguments[:2] == ["recipes", "copy"]:
            Path(arguments[3]).write_text(TINY_RECIPE, encoding="utf-8")
    assert {"train", "eval", "recipes", "route-stats"} <= set(ran)


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("bash")), flags=re.MULTILINE)
    assert targets[:2] == ["quickstart", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_recipe_in_the_readme_is_the_one_that_ships():
    recipe = (REPOSITORY / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    without_header = "".join(line for line in recipe.splitlines(keepends=True) if not line.startswith("#")).lstrip("\n")
    assert without_header in blocks("yaml")


def test_the_error_in_the_readme_is_what_moecli_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe, printed = next(
        (text, BLOCKS[i + 1][1]) for i, (name, text) in enumerate(BLOCKS) if name == "yaml" and BLOCKS[i + 1][0] == "text"
    )
    Path("my.yaml").write_text(recipe, encoding="utf-8")
    assert app.run(["recipes", "validate", "my.yaml"], debug=False) == 2
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_local_link_leads_somewhere(link):
    assert (REPOSITORY / link).exists()
