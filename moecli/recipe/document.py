"""A recipe before it is checked: plain data, where each value of it was written, and what is already known to be wrong.

Knows key paths and places. Must not know the schema, nor the syntax of YAML and of overrides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moecli.recipe.problem import KeyPath, Place, Problem
from moecli.recipe.shape import value_at
from moecli.recipe.yaml_source import YamlTree


@dataclass(slots=True)
class Document:
    """Plain data with the place of each value. Changes while overrides are laid over it."""

    data: dict[str, Any]
    places: dict[KeyPath, Place]
    problems: list[Problem]

    @classmethod
    def from_file(cls, tree: YamlTree, source: str) -> Document:
        places = {path: Place.in_file(source, line) for path, line in tree.lines.items()}
        problems = [Problem(Place.in_file(source, flaw.line), flaw.path, flaw.what) for flaw in tree.flaws]
        return cls(tree.data, places, problems)

    def place_of(self, path: KeyPath) -> Place:
        """Where the value was written, or for one that was not written the mapping that it would stand in."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def put(self, path: KeyPath, tree: YamlTree, place: Place) -> None:
        """Puts the value of a tree at a path whose parent is a mapping; forgets what was known about an earlier value."""
        self.forget(path)
        value_at(self.data, path[:-1])[path[-1]] = tree.data
        self.places |= {(*path, *below): place for below in ((), *tree.lines)}
        self.problems += [Problem(place, (*path, *flaw.path), flaw.what) for flaw in tree.flaws]

    def forget(self, path: KeyPath) -> None:
        """Takes a value out, with its places and problems."""
        value_at(self.data, path[:-1]).pop(path[-1], None)
        self.places = {known: place for known, place in self.places.items() if known[: len(path)] != path}
        self.problems = [problem for problem in self.problems if problem.path[: len(path)] != path]
