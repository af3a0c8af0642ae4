"""The errors that a user can cause, each with the exit code that the command line ends with.

Knows how an error reads: what is wrong, where, what is allowed, what to do next. Must not know any other part of moecli.
"""

from __future__ import annotations

from typing import Any


class MoecliError(Exception):
    """Something that the user can put right.

    Args:
        what: what is wrong, as one sentence without a full stop.
        where: the file, line, key or folder that it is about.
        allowed: what would have been accepted.
        next_step: what to do now.
    """

    exit_code: int = 2

    def __init__(self, what: str, *, where: str = "", allowed: str = "", next_step: str = "") -> None:
        self.what = what
        self.where = where
        self.allowed = allowed
        self.next_step = next_step
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes, whatever their classes are built from."""
        return _as_it_was, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)


def _as_it_was(kind: type[MoecliError], args: tuple[Any, ...], fields: dict[str, Any]) -> MoecliError:
    error = kind.__new__(kind, *args)
    vars(error).update(fields)
    return error


class RecipeError(MoecliError):
    """The recipe, or what was laid over it, can't be used."""


class DataError(MoecliError):
    """The text can't be read, or is not enough."""


class RunError(MoecliError):
    """A run folder or a checkpoint is not what it has to be."""


class ConvertError(MoecliError):
    """A checkpoint can't be converted: it is damaged, holds what the other side can't represent, or did not come out the same."""


class MachineError(MoecliError):
    """The machine refused: disk full or read-only, too little memory, no such device."""

    exit_code = 1


class PeerLost(MachineError):
    """Another process of the same training has ended or does not answer: each of those that are left says so by itself."""


class TrainingError(MoecliError):
    """Training itself failed: the loss is not a number any more."""

    exit_code = 1


class NotFinite(TrainingError):
    """Loss, gradient, router logits or weights are not finite: what the guards of training act upon."""


class Interrupted(MoecliError):
    """The work was stopped: by Ctrl-C, or by another signal, which then decides the exit code (128 and its number)."""

    exit_code = 130


class FieldProblem(ValueError):
    """One rule between several fields of a config is broken.

    A config raises it while it is built, the recipe loader turns it into a RecipeError with file and line.

    Args:
        field: the field that the message is about, relative to the config that raises ("router.top_k").
        what: what is wrong with it.
        allowed: what would have been accepted.
        involves: the other fields that the rule reads, relative to the same config.
    """

    def __init__(self, field: str, what: str, *, allowed: str = "", involves: tuple[str, ...] = ()) -> None:
        self.field = field
        self.what = what
        self.allowed = allowed
        self.involves = involves
        super().__init__(f"{field}: {what}")

    def under(self, parent: str, *, also_involves: tuple[str, ...] = ()) -> FieldProblem:
        """The same problem as told by the config that holds this one in its field `parent`; it may read fields of its own too."""
        involves = (*also_involves, *(f"{parent}.{field}" for field in self.involves))
        return FieldProblem(f"{parent}.{self.field}", self.what, allowed=self.allowed, involves=involves)


class FieldProblems(ValueError):
    """Every broken rule of one config, so that all are told at once."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(str(problem) for problem in problems))
