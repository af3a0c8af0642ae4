"""Where a model runs and in which precision.

Knows what torch finds on this machine. Must not know what is run.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Literal

import torch

from moecli.errors import MachineError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16"]


def pick_device(name: DeviceName) -> torch.device:
    """The named device; `auto` takes cuda, then mps, then cpu.

    Raises:
        MachineError: this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, is_there in available.items() if is_there))
    if not available[name]:
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise MachineError(f"torch finds no {name} on this machine", where="training.device", next_step=f"set it to auto or {there}")
    return torch.device(name)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Matrix products in bfloat16 where asked for; the router stays in float32 by itself."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def check_memory(
    needed_bytes: int,
    device: torch.device,
    what: str = "training",
    next_step: str = "make the model or training.batch_size smaller; `moecli train --dry-run` counts the bytes",
) -> None:
    """Refuses work (`what`) that can't fit, before anything is allocated.

    Raises:
        MachineError: the device has less memory in all than `needed_bytes`.
    """
    there_bytes = _total_memory_bytes(device)
    if there_bytes is not None and needed_bytes > there_bytes:
        raise MachineError(
            f"{what} needs about {needed_bytes / 1e9:,.1f} GB, this machine's {device.type} has {there_bytes / 1e9:,.1f} GB",
            next_step=next_step,
        )


def _total_memory_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return None
