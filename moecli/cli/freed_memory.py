"""Memory that the process freed stays with it, for the next tensor of that size.

Knows the C library's allocator. Must not know who allocates, nor import torch.
"""

from __future__ import annotations

import ctypes
import os

# What mallopt sets, by the numbers of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3

# Larger blocks are mapped one by one, and unmapped when they are freed.
MAPPED_FROM = 1 << 30
# The most that old glibc takes: half of the heap of a thread, HEAP_MAX_SIZE in its arena.c.
MAPPED_FROM_IN_OLD_GLIBC = 32 << 20
# More than this, free at the end of the heap, goes back to the system; -1: nothing does.
TRIMMED_FROM = -1
# By this much more than was asked for the heap grows.
GROWN_BY = 64 << 20

# By these a user sets the same: of the environment, and of its GLIBC_TUNABLES.
USER_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
USER_TUNABLES = ("glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold", "glibc.malloc.top_pad")


def keep_freed_memory() -> None:
    """Tells glibc not to give freed memory back to the system, from now on. Where a user has set this in the environment, or the C library
    is another, all stays as it is."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(name in os.environ for name in USER_SETTINGS) or any(name in tunables for name in USER_TUNABLES):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # of macOS, musl and Windows
        return
    if not mallopt(M_MMAP_THRESHOLD, MAPPED_FROM):
        mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_IN_OLD_GLIBC)
    mallopt(M_TRIM_THRESHOLD, TRIMMED_FROM)
    mallopt(M_TOP_PAD, GROWN_BY)
