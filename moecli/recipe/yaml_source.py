"""YAML text to plain data that remembers its lines, and plain data back to YAML text.

Knows YAML and the guards against hostile text. Must not know what a recipe holds, nor files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from moecli.recipe.problem import KeyPath, escape, show_value
from moecli.recipe.yaml_scalars import MAP, MERGE, RESOLVERS, SEQ, STR, checked_text, scalar_value, short_tag

_MOST_VALUES = 10_000  # in the whole text, with every alias written out
_DEEPEST = 40  # mappings and lists within each other


class YamlFault(Exception):
    """The text can't be read at all from this point on (line and column count from 1)."""

    def __init__(self, what: str, line: int, column: int) -> None:
        self.what = what
        self.line = line
        self.column = column
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something at one key that YAML lets pass and a recipe can't: a key given twice, a tag, a number of 1,000 digits."""

    path: KeyPath
    line: int
    what: str


@dataclass(frozen=True, slots=True)
class YamlTree:
    """Plain data (None, bool, int, float, str, list, dict with text keys) and where it stood in the text.

    A value with a flaw is None, or for a key given twice the first value.
    """

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)


def read_yaml(text: str) -> YamlTree:
    """One YAML document as plain data; empty text is None.

    Raises:
        YamlFault: the text is not YAML, holds several documents, or is too deep or too large.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character {escape(chr(error.character))} can't stand in YAML"
        raise YamlFault(what, line, error.position - text.rfind("\n", 0, error.position)) from None
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _fault(error) from None
    except (ValueError, OverflowError):  # PyYAML converts the digits of escapes and of %YAML unchecked
        raise YamlFault("a number in an escape or a directive is out of range", loader.line + 1, loader.column + 1) from None
    tree = YamlTree()
    return tree if node is None else YamlTree(_Builder(tree).value(node, ()), tree.lines, tree.flaws)


def write_yaml(data: Any) -> str:
    """Plain data in block style; `read_yaml` gives it back exactly, and so does a YAML 1.1 reader."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10**6)


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalars of YAML 1.2, up to a depth and a number."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (filled below; PyYAML's own are those of YAML 1.1)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.num_nodes += 1
        _guard(self.depth, self.num_nodes, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes where YAML 1.1 or 1.2 would take it for something else, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # in any other style PyYAML writes a lone U+0085 so that it is read back as a space
        return self.represent_scalar(STR, data, style=None if data.isprintable() else '"')


for _tag, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Dumper.add_representer(str, _Dumper.represent_str)


class _Builder:
    """Turns nodes into plain data, and fills the lines and flaws of a tree on the way."""

    def __init__(self, tree: YamlTree) -> None:
        self.tree = tree
        self.num_values = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._visit(node, len(path))
        self.tree.lines.setdefault(path, _line(node))
        match node:
            case yaml.MappingNode(tag=tag) if tag == MAP:
                return self._mapping(node, path)
            case yaml.SequenceNode(tag=tag) if tag == SEQ:
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            case yaml.ScalarNode():
                try:
                    return scalar_value(node.tag, node.value)
                except ValueError as error:
                    self._flaw(node, path, str(error))
            case _:
                self._flaw(node, path, f"the YAML tag {short_tag(node.tag)} has no meaning in a recipe")
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data = {}
        for key, (key_node, value_node) in self._entries(node, path, len(path)).items():
            self.tree.lines[(*path, key)] = _line(key_node)
            data[key] = self.value(value_node, (*path, key))
        return data

    def _entries(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key node and value node of each key. What the mapping says itself wins over what it merges in with `<<`."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            self._visit(key_node, depth)
            if key_node.tag == MERGE:
                for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    if isinstance(source, yaml.MappingNode):
                        merged = self._entries(source, path, depth + 1) | merged
                    else:
                        self._flaw(key_node, (*path, "<<"), "merges a mapping or a list of mappings, nothing else")
            elif (key := self._key(key_node, path)) in own:
                first = _line(own[key][0])
                self._flaw(key_node, (*path, key), f"given twice, in line {first} and in line {_line(key_node)}")
            elif key is not None:
                own[key] = key_node, value_node
        return merged | own

    def _key(self, node: yaml.Node, path: KeyPath) -> str | None:
        """The text of a key; None, and a flaw, where it is anything else."""
        if not isinstance(node, yaml.ScalarNode):
            self._flaw(node, path, "a key must be text, not a list or a mapping")
        elif node.tag != STR:
            self._flaw(node, (*path, node.value), f"a key must be text: write it in quotes, {show_value(node.value)}")
        else:
            try:
                return checked_text(node.value)
            except ValueError as error:
                self._flaw(node, (*path, node.value), str(error))
        return None

    def _flaw(self, node: yaml.Node, path: KeyPath, what: str) -> None:
        flaw = Flaw(path, _line(node), what)
        if flaw not in self.tree.flaws:  # what is merged in is met again
            self.tree.flaws.append(flaw)

    def _visit(self, node: yaml.Node, depth: int) -> None:
        self.num_values += 1
        _guard(depth, self.num_values, node.start_mark)


def _guard(depth: int, number: int, mark: yaml.Mark) -> None:
    if depth > _DEEPEST:
        raise YamlFault(f"more than {_DEEPEST} levels deep, or an anchor within itself", mark.line + 1, mark.column + 1)
    if number > _MOST_VALUES:
        raise YamlFault(f"more than {_MOST_VALUES} values, where every alias counts in full", mark.line + 1, mark.column + 1)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


# What PyYAML says, what a person who writes a recipe needs to hear, and whether to point at the beginning of what is broken
# rather than at the place where that showed. The first match counts.
_IN_PLAIN_WORDS = (
    (r"'\t'", "a tab can't indent: use spaces", False),
    ("cannot start any token", "a plain value can't begin with this character: put it in quotes", False),
    ("second occurrence", "this anchor (&) stands at another value already", False),
    ("sequence entries are not allowed", "a list item ('- ') can't begin here: give it a line of its own", False),
    ("expected the node content", "a value is missing here", False),
    ("single document", "a second document begins here (---): a recipe is one", False),
    ("mapping values are not allowed", "no ':' can stand here: check the indentation, or put text that holds ': ' in quotes", False),
    ("expected ':'", "a ':' is missing after the key", False),
    ("expected <block end>", "this does not line up with the lines above", False),
    ("expected ',' or ']'", "the list that begins here is not closed: ',' or ']' is missing", True),
    ("expected ',' or '}'", "the mapping that begins here is not closed: ',' or '}' is missing", True),
    ("while scanning a quoted scalar", "the quotes that open here are never closed", True),
)


def _fault(error: yaml.MarkedYAMLError) -> YamlFault:
    said = f"{error.context or ''} {error.problem or ''}"
    anything_else = (f"not valid YAML: {escape(error.problem or said)}", False)
    what, at_its_beginning = next(((words, first) for sign, words, first in _IN_PLAIN_WORDS if sign in said), anything_else)
    mark = (error.context_mark if at_its_beginning else error.problem_mark) or error.problem_mark or error.context_mark
    return YamlFault(what, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1)
