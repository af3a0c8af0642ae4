"""`--set key.path=value`: values laid over a recipe.

Knows the syntax of an override, and that another `kind` knows other keys. Must not know files, nor what a recipe holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from moecli.config import Config
from moecli.recipe.document import Document
from moecli.recipe.problem import KeyPath, Place, Problem, show_path, show_value
from moecli.recipe.shape import Shape, kind_of, value_at
from moecli.recipe.yaml_scalars import checked_text
from moecli.recipe.yaml_source import YamlFault, YamlTree, read_yaml

_DEEPEST = 40  # keys in one path


def lay_over(document: Document, overrides: Sequence[str], schema: type[Config]) -> tuple[str, ...]:
    """Sets each value in turn; what is wrong with an override becomes a problem of the document.

    Where an override changes a `kind`, the keys that the file gives to the old kind and that the new one does not have are
    dropped after the last override, so that it does not matter in which order a kind and its keys are set.

    Returns:
        One notice for each mapping that lost keys.
    """
    file_data = deepcopy(document.data)
    for index, override in enumerate(overrides):
        place = Place.of_override(index, override)
        path: KeyPath = ()
        try:
            path, value_text = _split(override)
            _set(document, path, value_text, place)
        except (ValueError, YamlFault) as error:
            document.problems.append(Problem(place, path, str(error)))
    return tuple(_drop_foreign_keys(document, file_data, Shape.of(schema), ()))


def _split(override: str) -> tuple[KeyPath, str]:
    """The key path and the text of the value.

    Raises:
        ValueError: this is not `key.path=value`.
    """
    keys, equals, value_text = override.partition("=")
    path = tuple(key.strip() for key in keys.split("."))
    if not equals or not all(path) or len(path) > _DEEPEST:
        raise ValueError("must read key.path=value, such as model.d_model=128")
    checked_text(keys)
    return path, value_text


def _set(document: Document, path: KeyPath, value_text: str, place: Place) -> None:
    """Puts the value where the path says, and the mappings on the way to it where there are none.

    Raises:
        ValueError: there is no value, or no mapping to put it in.
        YamlFault: the value is not YAML.
    """
    if not value_text.strip():
        raise ValueError('has no value: write null for none, "" for empty text')
    tree = read_yaml(value_text)
    for depth in range(1, len(path)):
        parent = value_at(document.data, path[:depth])
        if parent is None:
            document.put(path[:depth], YamlTree({}), place)
        elif not isinstance(parent, dict):
            whole = f"set the whole list, {show_path(path[:depth])}=[...]" if isinstance(parent, list) else "it holds no keys"
            raise ValueError(f"can't be set within {show_path(path[:depth])} = {show_value(parent)}: {whole}")
    document.put(path, tree, place)


def _drop_foreign_keys(document: Document, file_data: Any, shape: Shape, path: KeyPath) -> list[str]:
    """Drops the keys of the file that belong to another kind than the one set, here and below."""
    data = value_at(document.data, path)
    if not isinstance(data, dict):
        return []
    notices = []
    if shape.one_of:
        table, kind = shape.one_of.table, kind_of(shape.one_of, data)
        if isinstance(kind, str) and kind in table and kind != kind_of(shape.one_of, value_at(file_data, path)):
            # a key that no kind has is a slip of the keyboard, and stays to be told
            of_other_kinds = {key for config in table.values() for key in config.model_fields} - set(table[kind].model_fields)
            dropped = [key for key in list(data) if key in of_other_kinds and _drop_what_the_file_says(document, (*path, key))]
            if dropped:
                them = "it" if len(dropped) == 1 else "them"
                notices.append(f"{show_path(path)}: dropped {', '.join(dropped)}: kind {kind} does not have {them}")
    for key in data:
        if child := shape.child(key, data):
            notices += _drop_foreign_keys(document, file_data, child, (*path, key))
    return notices


def _drop_what_the_file_says(document: Document, path: KeyPath) -> bool:
    """Drops a value unless an override set it or something within it. True if it is gone."""
    inner = [place for known, place in document.places.items() if known[: len(path)] == path and place.is_override]
    if not inner:
        document.forget(path)
    elif not document.places[path].is_override:
        document.places[path] = min(inner)  # so that the override is named, not the file
    return not inner
