"""What hatchling does when moecli is built or installed: it compiles moecli/moe/grouped_product.c, for moecli/moe/grouped_product.py.

Where that is not possible (another system or processor, no gcc) moecli is installed without it: experts and generation are slower then.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("moecli", "moe", "grouped_product.c")
LIBRARY = SOURCE.with_name("libgrouped_product.so")


class CompileGroupedProduct(BuildHookInterface):
    folder: TemporaryDirectory[str] | None = None
    """What is compiled lies here until the package is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or sys.platform != "linux" or platform.machine() != "x86_64":
            return
        self.folder = TemporaryDirectory()
        # An editable installation takes everything from the source tree.
        library = Path(self.root, LIBRARY) if version == "editable" else Path(self.folder.name, LIBRARY.name)
        try:
            library.unlink(missing_ok=True)
            compile_library(Path(self.root, SOURCE), library, Path(self.folder.name))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else error
            self.app.display_warning(f"{SOURCE} can't be compiled, so experts and generation will be slower on this CPU: {reason}")
            return
        if version != "editable":
            build_data["force_include"][str(library)] = LIBRARY.as_posix()
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.folder is not None:
            self.folder.cleanup()


def compile_library(source: Path, library: Path, folder: Path) -> None:
    """By gcc, whose calls of OpenMP are answered by the library that torch loads: linked here, there might be a second one, with threads
    of its own."""
    compiled = folder / "grouped_product.o"
    for call in (
        ["gcc", "-O3", "-std=gnu11", "-fopenmp", "-fPIC", "-c", str(source), "-o", str(compiled)],
        ["gcc", "-shared", str(compiled), "-o", str(library)],
    ):
        subprocess.run(call, check=True, capture_output=True)
