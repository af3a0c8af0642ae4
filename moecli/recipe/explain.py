"""What pydantic found wrong, in plain words and at the key path of the recipe.

Knows pydantic's errors, the schema and the data. Must not know files, lines or overrides. No word of pydantic reaches the reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from moecli.config import Config
from moecli.errors import FieldProblem, FieldProblems
from moecli.recipe.problem import KeyPath, escape, show_path
from moecli.recipe.shape import Shape, has_path, kind_of, paths_of_key, shape_at, value_at
from moecli.recipe.wording import describe, either, hint, nearest


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the data."""

    path: KeyPath
    what: str
    shows_value: bool = True
    reads: tuple[KeyPath, ...] = ()
    """The values that it follows from: where one of them is not what the writer meant, it may not be true."""
    meant: KeyPath = ()
    """The known key that an unknown one was probably meant to be."""


def explain(error: ValidationError, schema: type[Config], data: Any) -> list[Finding]:
    """Every error as findings, each once."""
    findings: dict[Finding, None] = {}
    for details in error.errors(include_url=False, include_input=False):
        findings |= dict.fromkeys(_findings(details, schema, data))
    return list(findings)


def _findings(details: ErrorDetails, schema: type[Config], data: Any) -> Iterator[Finding]:
    path, shape = _locate(details["loc"], schema, data)
    value = value_at(data, path)
    match details["type"], details.get("ctx", {}).get("error"):
        case _ if shape and shape.members:
            yield _wrong_value(path, shape, value)
        case "extra_forbidden", _:
            yield _unknown_key(path, schema, data)
        case "missing", _:
            yield Finding(path, f"is missing; it must be {describe(shape) if shape else 'there'}", shows_value=False, reads=(path,))
        case (("union_tag_invalid" | "union_tag_not_found"), _) if shape and shape.one_of:
            yield _wrong_kind(path, shape, value)
        case "value_error", (FieldProblem() | FieldProblems()) as broken:
            for problem in broken.problems if isinstance(broken, FieldProblems) else [broken]:
                yield _broken_rule(path, problem, data)
        case (("value_error" | "assertion_error"), Exception() as broken) if str(broken):
            yield Finding(path, escape(str(broken)), reads=(path,))
        case _:
            yield _wrong_value(path, shape, value)


def _locate(loc: KeyPath, schema: type[Config], data: Any) -> tuple[KeyPath, Shape | None]:
    """The key path in the recipe, without what pydantic mixes in: the kind below a `OneOf` field, the member of a union.

    An error within a plain union is an error of the union as a whole: nobody knows which member was meant.
    """
    path: KeyPath = ()
    shape: Shape | None = Shape.of(schema)
    for part in loc:
        if shape is None or shape.members:
            break
        if shape.one_of:
            shape = Shape(shape.one_of.table[str(part)])
        else:
            shape = shape.child(part, value_at(data, path))
            path = (*path, part)
    return path, shape


def _wrong_value(path: KeyPath, shape: Shape | None, value: Any) -> Finding:
    return Finding(path, f"must be {describe(shape, value)}{hint(shape, value)}" if shape else "can't be used here")


def _unknown_key(path: KeyPath, schema: type[Config], data: Any) -> Finding:
    *above, key = path
    parent, siblings = tuple(above), value_at(data, tuple(above))
    shape = shape_at(schema, parent, data)
    config = shape and shape.config(siblings)
    assert shape and config and isinstance(key, str)
    owners = [kind for kind, other in shape.one_of.table.items() if key in other.model_fields] if shape.one_of else []
    meant: KeyPath = ()
    if near := nearest(key, config.model_fields):
        meant = (*parent, near)
    elif not owners and len(elsewhere := set(paths_of_key(Shape.of(schema), key))) == 1:
        [meant] = elsewhere
        near = show_path(meant)
    what = "unknown key"
    if shape.one_of and owners:
        what += f" of kind {kind_of(shape.one_of, siblings)}, but kind {either(owners)} has it"
    what += f"; did you mean {near}?" if near else ""
    what += f" (allowed here: {', '.join(config.model_fields)})"
    return Finding(path, what, shows_value=False, meant=() if has_path(data, meant) else meant)


def _wrong_kind(path: KeyPath, shape: Shape, value: Any) -> Finding:
    assert shape.one_of
    kinds = list(shape.one_of.table)
    if not isinstance(value, dict):
        null = ", or null" if shape.nullable else ""
        return Finding(path, f"must be a mapping with `kind`: one of {', '.join(kinds)}{null}")
    kind = kind_of(shape.one_of, value)
    near = nearest(kind, kinds) if isinstance(kind, str) else ""
    return Finding((*path, "kind"), f"must be one of {', '.join(kinds)}" + (f"; did you mean {near}?" if near else ""))


def _broken_rule(path: KeyPath, problem: FieldProblem, data: Any) -> Finding:
    fields = [(*path, *_keys(field)) for field in (problem.field, *problem.involves)]
    allowed = f" (allowed: {problem.allowed})" if problem.allowed else ""
    return Finding(fields[0], escape(problem.what + allowed), shows_value=has_path(data, fields[0]), reads=tuple(fields))


def _keys(field: str) -> KeyPath:
    """The key path that a config writes as `router.top_k` or `layers.3`."""
    return tuple(int(key) if key.isdecimal() else key for key in field.split(".") if key)
