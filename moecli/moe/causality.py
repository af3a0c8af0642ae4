"""What lets a token see what it should not: its own future, or other sequences of the batch.

Knows how a leak is described. Must not know which routers leak: each config says so beside its equation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Leak:
    """One way in which a token's output depends on more than its own past."""

    sees: Literal["future", "rows"]
    """`future`: later tokens of the same sequence. `rows`: other sequences of the batch."""
    field: str
    """The config field that brings it about, relative to the config that declares it ("order", "router.pool")."""
    why: str
    instead: str
    """What to write to be rid of it."""

    def under(self, parent: str) -> Leak:
        """The same leak as declared by the config that holds this one in its field `parent`."""
        return Leak(self.sees, f"{parent}.{self.field}", self.why, self.instead)
