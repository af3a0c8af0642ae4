"""Limits on time and memory, so that a defence that is missing fails a test instead of ending the machine.

Knows the limits of a process. Must not know what runs within them.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def within(seconds: int = 10, megabytes: int = 600) -> Iterator[None]:
    """Within the block a call that takes longer raises AssertionError, and one that takes so much more memory fails."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 1_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _too_long(signal_number: int, frame: object) -> None:
    raise AssertionError("it takes too long")
