"""Rules between the tensors of a GPT and those of another project's checkpoint: a table, read in both directions by the same code.

Knows names, shapes and slices. Must not know any format by name, nor files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moecli.errors import ConvertError

EXPERT = "{expert}"
Shape = tuple[int, ...]
Read = Callable[[str], Tensor]
"""A tensor of the source by its name."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One tensor of ours, and the tensors of theirs that hold its numbers: theirs = scale * a part of ours."""

    ours: str
    """A name; a placeholder such as {layer} stands for anything between two dots."""
    theirs: tuple[str, ...]
    """Names with the same placeholders. Of several, each is an equal share of our rows, in this order; with {expert}, which our name
    doesn't have, each is of one slice of ours along its first dimension. None at all: their side has no use for it."""
    scale: float = 1.0
    """A power of two, so that nothing is rounded."""
    keeps_float32: bool = False
    """Whether theirs stays in float32 whatever the others are written in."""

    def pieces(self, name: str, shape: Shape) -> Iterator[Piece] | None:
        """The pieces of the tensor of ours that has this name and shape; None where the rule is about others."""
        match = re.fullmatch(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^.]+)", re.escape(self.ours)), name)
        return None if match is None else self._pieces(name, shape, match.groupdict())

    def _pieces(self, name: str, shape: Shape, values: dict[str, str]) -> Iterator[Piece]:
        is_stacked = any(EXPERT in their_name for their_name in self.theirs)
        rest = shape[1:] if is_stacked else shape
        for expert in range(shape[0]) if is_stacked else [None]:
            named = values if expert is None else values | {"expert": str(expert)}
            for number, their_name in enumerate(self.theirs):
                index: tuple[int | slice, ...] = () if expert is None else (expert,)
                part = rest
                if len(self.theirs) > 1:
                    rows = rest[0] // len(self.theirs)
                    assert rows * len(self.theirs) == rest[0], f"{name}: {rest[0]} rows in {len(self.theirs)} equal parts"
                    index, part = (*index, slice(number * rows, (number + 1) * rows)), (rows, *rest[1:])
                yield Piece(name, their_name.format_map(named), index, part, self.scale, self.keeps_float32)


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of theirs, and where in one of ours its numbers stand: theirs = scale * ours[index]."""

    ours: str
    theirs: str
    index: tuple[int | slice, ...]
    shape: Shape
    scale: float
    keeps_float32: bool


@dataclass(frozen=True, slots=True)
class Filler:
    """A tensor of theirs that ours has no counterpart for: it has to be there, and to be zero."""

    theirs: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor of theirs that can be made from ours."""

    name: str
    shape: Shape
    keeps_float32: bool
    make: Callable[[], Tensor]


def pieces_of(rules: Sequence[Rule], our_shapes: Mapping[str, Shape]) -> list[Piece]:
    """The rules as pieces, in the order of our tensors.

    Raises:
        ConvertError: a tensor of ours is matched by no rule or by two, or one of theirs would be made twice.
    """
    pieces: list[Piece] = []
    for name, shape in our_shapes.items():
        found = [made for rule in rules if (made := rule.pieces(name, shape)) is not None]
        if len(found) != 1:
            raise ConvertError("no rule says what becomes of this tensor" if not found else "two rules match this tensor", where=name)
        pieces += found[0]
    twice = [name for name, count in Counter(piece.theirs for piece in pieces).items() if count > 1]
    if twice:
        raise ConvertError("two tensors would become this one", where=twice[0])
    return pieces


def to_theirs(pieces: Sequence[Piece], fillers: Sequence[Filler], read: Read) -> list[Made]:
    """What their checkpoint holds; each is made when it is asked for. `read` gives ours."""

    def maker(piece: Piece) -> Callable[[], Tensor]:
        return lambda: read(piece.ours)[piece.index] * piece.scale

    made = [Made(piece.theirs, piece.shape, piece.keeps_float32, maker(piece)) for piece in pieces]
    zeros = [Made(filler.theirs, filler.shape, False, lambda shape=filler.shape: torch.zeros(shape)) for filler in fillers]  # type: ignore[misc]
    return [*made, *zeros]


def to_ours(pieces: Sequence[Piece], our_shapes: Mapping[str, Shape], read: Read) -> dict[str, Tensor]:
    """Our tensors, float32. `read` gives theirs."""
    ours = {name: torch.empty(shape) for name, shape in our_shapes.items()}
    for piece in pieces:
        ours[piece.ours][piece.index] = read(piece.theirs).float() / piece.scale
    return ours


def expected_shapes(pieces: Iterable[Piece], fillers: Iterable[Filler]) -> dict[str, Shape]:
    """The tensors that their checkpoint has to hold."""
    return {piece.theirs: piece.shape for piece in pieces} | {filler.theirs: filler.shape for filler in fillers}


def check_shapes(there: Mapping[str, Shape], expected: Mapping[str, Shape], where: Callable[[str], str]) -> None:
    """Every tensor of a checkpoint is expected, and every expected one is there, in its shape.

    Args:
        where: the file that holds a tensor, or that should.

    Raises:
        ConvertError: they don't; it names the tensors and the file.
    """
    missing, extra = [name for name in expected if name not in there], [name for name in there if name not in expected]
    if missing:
        raise ConvertError(f"{_few(missing)} missing", where=where(missing[0]), next_step="copy the checkpoint again")
    if extra:
        what = f"{_few(extra)} not part of the model that config.json describes"
        raise ConvertError(what, where=where(extra[0]), next_step="give the checkpoint with its own config.json")
    for name, shape in expected.items():
        if there[name] != shape:
            what = f"tensor {name} has the shape {list(there[name])}, by config.json it should be {list(shape)}"
            raise ConvertError(what, where=where(name), next_step="give the checkpoint with its own config.json")


def _few(names: Sequence[str]) -> str:
    """The first names, with the verb."""
    if len(names) == 1:
        return f"tensor {names[0]} is"
    shown = ", ".join(names[:3])
    return f"tensors {shown} {f'and {len(names) - 3} more ' if len(names) > 3 else ''}are"
