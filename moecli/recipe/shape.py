"""What a schema allows at a key path: the one place that reads type annotations.

Knows configs, `OneOf` and typing. Must not know YAML, pydantic's errors or how a shape is worded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from moecli.config import Config, OneOf
from moecli.recipe.problem import KeyPath


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotation, taken apart."""

    type: Any
    """The bare type, without Annotated and without None."""
    limits: tuple[Any, ...] = ()
    """What Annotated and Field said about it: Interval(ge=1), OneOf(...), ..."""
    nullable: bool = False

    @classmethod
    def of(cls, annotation: Any, limits: tuple[Any, ...] = (), nullable: bool = False) -> Shape:
        if get_origin(annotation) is Annotated:
            bare, *metadata = get_args(annotation)
            return cls.of(bare, (*limits, *_flat(metadata)), nullable)
        if get_origin(annotation) in (Union, UnionType) and not any(isinstance(limit, OneOf) for limit in limits):
            members = [member for member in get_args(annotation) if member is not NoneType]
            if len(members) < len(get_args(annotation)):
                return cls.of(Union[tuple(members)], limits, True)  # noqa: UP007 (built at run time)
        return cls(annotation, limits, nullable)

    @property
    def one_of(self) -> OneOf | None:
        return next((limit for limit in self.limits if isinstance(limit, OneOf)), None)

    @property
    def members(self) -> list[Shape]:
        """The alternatives of a plain union, such as `bool | float`; empty for everything else."""
        is_union = get_origin(self.type) in (Union, UnionType) and self.one_of is None
        return [Shape.of(member) for member in get_args(self.type)] if is_union else []

    def config(self, value: Any) -> type[Config] | None:
        """The config that a mapping in this place builds; None where there is none, or where its `kind` is unknown."""
        if self.one_of:
            kind = kind_of(self.one_of, value)
            return self.one_of.table.get(kind) if isinstance(kind, str) else None
        return self.type if isinstance(self.type, type) and issubclass(self.type, Config) else None

    def child(self, key: str | int, value: Any) -> Shape | None:
        """The shape one key further down in `value`; None where the schema knows nothing there."""
        if config := self.config(value):
            info = config.model_fields.get(str(key))
            return info and Shape.of(info.annotation, _flat(info.metadata))
        arguments = get_args(self.type)
        if get_origin(self.type) is list:
            return Shape.of(arguments[0])
        if get_origin(self.type) is tuple and isinstance(key, int):
            return Shape.of(arguments[0 if arguments[-1] is Ellipsis else min(key, len(arguments) - 1)])
        return Shape.of(arguments[1]) if get_origin(self.type) is dict else None


def kind_of(one_of: OneOf, value: Any) -> Any:
    """The kind that a value of a `OneOf` field asks for."""
    return value.get("kind", one_of.default) if isinstance(value, dict) else one_of.default


def shape_at(schema: type[Config], path: KeyPath, data: Any) -> Shape | None:
    """The shape of the value at a key path, where `data` says which kinds stand on the way."""
    shape: Shape | None = Shape.of(schema)
    for key in path:
        shape = shape and shape.child(key, data)
        data = value_at(data, (key,))
    return shape


def value_at(data: Any, path: KeyPath) -> Any:
    """The value at a key path; None where there is none."""
    for key in path:
        if isinstance(data, dict):
            data = data.get(key)
        else:
            data = data[key] if isinstance(data, list) and isinstance(key, int) and key < len(data) else None
    return data


def has_path(data: Any, path: KeyPath) -> bool:
    parent = value_at(data, path[:-1])
    return not path or (isinstance(parent, dict) and path[-1] in parent) or (isinstance(parent, list) and path[-1] in range(len(parent)))


def paths_of_key(shape: Shape, key: str, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key path of the schema that ends in `key`, whatever the kinds on the way, from the top down and without lists."""
    config = shape.config({})
    configs = list(shape.one_of.table.values()) if shape.one_of else [config] if config else []
    yield from ((*path, key) for config in configs if key in config.model_fields)
    for config in configs:
        for name, info in config.model_fields.items():
            yield from paths_of_key(Shape.of(info.annotation, _flat(info.metadata)), key, (*path, name))


def _flat(metadata: Any) -> tuple[Any, ...]:
    """The limits themselves: `Annotated[int, Field(ge=1)]` within another type keeps them inside its FieldInfo."""
    return tuple(part for limit in metadata for part in (limit.metadata if isinstance(limit, FieldInfo) else (limit,)))
