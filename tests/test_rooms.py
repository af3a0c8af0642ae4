"""The house rules that can be read off the source: imports point down, third parties stay in their rooms, nothing but cli prints."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import moecli

PACKAGE = Path(moecli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LEVELS = {
    "errors": 0, "config": 0,
    "moe": 1, "data": 1,
    "model": 2,
    "parallel": 3,
    "training": 4, "evaluation": 4, "analysis": 4, "convert": 4,
    "recipe": 5, "reports": 5,
    "workflows": 6,
    "cli": 7,
}  # fmt: skip
THIRD_PARTIES = {
    "typer": ("cli",),
    "rich": ("cli",),
    "matplotlib": ("reports",),
    "jinja2": ("reports",),
    "datasets": ("data",),
    "tokenizers": ("data",),
    "yaml": ("recipe",),
    "transformers": ("convert", "analysis"),
    "safetensors": ("model", "convert"),
    "scipy": ("analysis", "convert"),
    "triton": ("moe",),
}
FORBIDDEN_NAMES = {"utils", "common", "helpers", "core", "misc"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names += [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "moecli" else [node.module or ""]
    return names


def test_the_package_is_found():
    assert len(FILES) > 50
    assert {room(path) for path in FILES} - {"__init__", "__main__"} <= set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_third_parties_stay_in_their_rooms(path):
    own = room(path)
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "moecli" and len(parts) > 1 and parts[1] in LEVELS and own in LEVELS:
            other = parts[1]
            assert other == own or LEVELS[other] < LEVELS[own] or (own == "config" and other == "errors"), f"{own} imports {other}"
        if parts[0] in THIRD_PARTIES:
            assert own in THIRD_PARTIES[parts[0]], f"{own} imports {parts[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_says_what_it_knows(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no docstring"
    assert not FORBIDDEN_NAMES & {part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_prints_but_the_command_line(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}"
