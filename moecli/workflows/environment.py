"""What a run was made on: versions, hardware, seed, the commit of the working directory.

Knows how to ask. Must not change anything.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import moecli
from moecli.moe import grouped_product

PACKAGES = ("numpy", "tokenizers", "datasets", "safetensors", "pydantic")


def describe_environment(device: torch.device, seed: int) -> dict[str, Any]:
    """A plain dict for environment.json."""
    return {
        "moecli": moecli.__version__,
        "python": platform.python_version(),
        # torch's own word names the build too (+cpu, +cu130), its package's metadata does not.
        "packages": {"torch": torch.__version__} | {package: _version(package) for package in PACKAGES},
        **describe_machine(device),
        "seed": seed,
        "git_commit": _git_commit(),
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What seconds depend on: those of runs with the same description can be compared."""
    return {
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Whether moecli/moe/grouped_product.c multiplies. Losses have other last digits without.
        "products_in_c": device.type == "cpu" and grouped_product.LIBRARY is not None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit checked out where the command was called, None outside a checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
