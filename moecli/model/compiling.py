"""What is said where torch.compile can't compile.

Knows what the compiler raises. Must not know what is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moecli.errors import MachineError


@contextmanager
def compile_errors(where: str, next_step: str) -> Iterator[None]:
    """Raises MachineError where this machine can't compile what is called in the body."""
    from torch._dynamo.exc import TorchDynamoException  # half a second that only those pay who compile

    try:
        yield
    except TorchDynamoException as error:
        reason = next((line for line in str(error).splitlines() if not line.endswith(" raised:")), type(error).__name__)
        raise MachineError(f"torch.compile fails here: {reason}", where=where, next_step=next_step) from error
