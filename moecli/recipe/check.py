"""Data to a config, or every problem at once.

Knows how to go on looking behind a problem. Must not know YAML, nor how a problem is worded.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

from pydantic import ValidationError

from moecli.config import Config
from moecli.recipe.document import Document
from moecli.recipe.explain import Finding, explain
from moecli.recipe.problem import InvalidRecipe, KeyPath, Problem, show_value
from moecli.recipe.shape import has_path, value_at

AnyConfig = TypeVar("AnyConfig", bound=Config)


def check(document: Document, schema: type[AnyConfig], source: str) -> AnyConfig:
    """The config that the document describes.

    A rule between fields can't be checked while one of them is broken. So each broken value is taken out, its default takes
    its place, and what is left is checked again. What is found then counts unless it follows from a value that was taken out.

    Raises:
        InvalidRecipe: with every problem of the document.
    """
    problems = list(document.problems)
    trial = deepcopy(document.data)
    doubtful: set[KeyPath] = set()
    for problem in problems:
        doubtful |= _take_out(trial, problem.path) | ({problem.path} - {()})
    while True:
        try:
            config = schema.model_validate(trial)
            break
        except ValidationError as error:
            findings = explain(error, schema, trial)
        problems += [_problem(finding, document) for finding in findings if not _touches(finding.reads, doubtful)]
        doubtful |= {path for finding in findings for path in (finding.path, finding.meant) if path}
        taken_out = _repair(trial, findings)
        if not taken_out:
            break
        doubtful |= taken_out
    if problems:
        raise InvalidRecipe(source, problems)
    return config


def _problem(finding: Finding, document: Document) -> Problem:
    written = next((path for path in finding.reads if has_path(document.data, path)), finding.path)
    value = show_value(value_at(document.data, finding.path)) if finding.shows_value else ""
    return Problem(document.place_of(written), finding.path, finding.what, value)


def _touches(reads: tuple[KeyPath, ...], doubtful: set[KeyPath]) -> bool:
    """True if a value that was read lies in a doubtful one, or holds one."""
    return any(path[: len(doubt)] == doubt or doubt[: len(path)] == path for path in reads for doubt in doubtful)


def _repair(trial: dict[str, Any], findings: list[Finding]) -> set[KeyPath]:
    """Takes out one value for each finding; where none is left, the mappings around them. Returns what it took out."""
    taken_out: set[KeyPath] = set()
    for finding in findings:
        taken_out |= next(filter(None, (_take_out(trial, path) for path in (finding.path, *finding.reads))), set())
    if taken_out:
        return taken_out
    for finding in findings:
        around = (finding.path[:depth] for depth in range(len(finding.path) - 1, 0, -1))
        taken_out |= next(filter(None, (_take_out(trial, path) for path in around)), set())
    return taken_out


def _take_out(trial: dict[str, Any], path: KeyPath) -> set[KeyPath]:
    """Removes a value: for an item of a list the list, for a `kind` the mapping whose keys it explains."""
    path = path[: next((depth for depth, key in enumerate(path) if isinstance(key, int)), len(path))]
    if path[1:] and path[-1] == "kind":
        path = path[:-1]
    if not path or not has_path(trial, path):
        return set()
    del value_at(trial, path[:-1])[path[-1]]
    return {path}
