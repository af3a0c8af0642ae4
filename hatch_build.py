"""What hatchling does when moecli is built or installed: it compiles moecli/moe/grouped_product.c beside its source.

Where that is not possible (another system or processor, no C compiler) moecli is installed without it, and its experts are slower.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("moecli", "moe", "grouped_product.c")
LIBRARY = SOURCE.with_name("libgrouped_product.so")


class CompileGroupedProduct(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or sys.platform != "linux" or platform.machine() != "x86_64":
            return
        root = Path(self.root)
        (root / LIBRARY).unlink(missing_ok=True)
        try:
            compile_library(root / SOURCE, root / LIBRARY)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else error
            self.app.display_warning(f"{SOURCE} can't be compiled, so experts will be slower on this CPU: {reason}")
            return
        build_data["artifacts"].append(LIBRARY.as_posix())
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"


def compile_library(source: Path, library: Path) -> None:
    """Not linked with OpenMP, so that its threads are those of the OpenMP that torch brings along and loads before."""
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    compiled, linked = library.with_suffix(".o"), library.with_suffix(".tmp")
    try:
        subprocess.run(
            [*compiler, "-O3", "-std=gnu11", "-fopenmp", "-fPIC", "-c", str(source), "-o", str(compiled)], check=True, capture_output=True
        )
        subprocess.run([*compiler, "-shared", str(compiled), "-o", str(linked)], check=True, capture_output=True)
        linked.replace(library)
    finally:
        compiled.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)
