"""What happens to the C of moecli at installation, with and without a compiler."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from moecli.moe import grouped_product

SOURCE = Path(grouped_product.__file__).with_name("grouped_product.c")
HOOK = Path(__file__).parents[1] / "hatch_build.py"
SOMEWHERE = Path("moecli", "moe")

on_linux = pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="compiled on Linux for x86-64 alone")


@pytest.fixture
def hatch_build(monkeypatch) -> ModuleType:
    """The hook's file; hatchling itself is there while a package is built alone."""
    monkeypatch.setitem(sys.modules, "hatchling.builders.hooks.plugin.interface", SimpleNamespace(BuildHookInterface=object))
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(hatch_build: ModuleType, root: Path, target: str = "wheel") -> tuple[dict[str, Any], list[str]]:
    """What the hook says of the package, and its warnings."""
    (root / SOMEWHERE).mkdir(parents=True, exist_ok=True)
    if not (root / SOMEWHERE / SOURCE.name).exists():
        shutil.copy(SOURCE, root / SOMEWHERE)
    hook, warnings = hatch_build.CompileGroupedProduct(), []
    hook.root, hook.target_name, hook.app = str(root), target, SimpleNamespace(display_warning=warnings.append)
    build_data: dict[str, Any] = {"artifacts": [], "pure_python": True}
    hook.initialize("standard", build_data)
    return build_data, warnings


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / SOMEWHERE).iterdir())


@on_linux
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_library_is_compiled_into_a_package_for_this_machine(hatch_build, tmp_path):
    build_data, warnings = build(hatch_build, tmp_path)
    assert build_data == {"artifacts": ["moecli/moe/libgrouped_product.so"], "pure_python": False, "tag": "py3-none-linux_x86_64"}
    assert warnings == [] and files(tmp_path) == ["grouped_product.c", "libgrouped_product.so"]
    library = grouped_product._load(tmp_path / SOMEWHERE / "libgrouped_product.so")
    assert (library is None) == (grouped_product.LIBRARY is None)


@on_linux
@pytest.mark.parametrize("broken", ["no compiler", "no C"])
def test_without_a_compiler_the_package_is_python_alone_and_says_so(broken, hatch_build, tmp_path, monkeypatch):
    (tmp_path / SOMEWHERE).mkdir(parents=True)
    (tmp_path / SOMEWHERE / "libgrouped_product.so").write_text("of an earlier source")
    if broken == "no compiler":
        monkeypatch.setenv("CC", "no-such-compiler -x")
    else:
        (tmp_path / SOMEWHERE / SOURCE.name).write_text("int of(")
    build_data, warnings = build(hatch_build, tmp_path)
    assert build_data == {"artifacts": [], "pure_python": True}
    assert len(warnings) == 1 and "can't be compiled, so experts will be slower" in warnings[0]
    assert files(tmp_path) == ["grouped_product.c"]


def test_a_source_distribution_has_the_source_alone(hatch_build, tmp_path):
    assert build(hatch_build, tmp_path, target="sdist") == ({"artifacts": [], "pure_python": True}, [])
    assert files(tmp_path) == ["grouped_product.c"]


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_elsewhere_nothing_is_compiled(system, machine, hatch_build, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert build(hatch_build, tmp_path) == ({"artifacts": [], "pure_python": True}, [])
    assert files(tmp_path) == ["grouped_product.c"]
