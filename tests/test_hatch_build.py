"""What happens to the C of moecli at installation, with and without a compiler."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from moecli.moe import grouped_product

SOURCE = Path(grouped_product.__file__).with_name("grouped_product.c")
HOOK = Path(__file__).parents[1] / "hatch_build.py"
SOMEWHERE = Path("moecli", "moe")
Build = Callable[..., tuple[dict[str, Any], list[str]]]

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
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


@pytest.fixture
def build(hatch_build, tmp_path) -> Iterator[Build]:
    """Calls the hook for a source tree at tmp_path. Returns what it says of the package, and its warnings."""
    hooks = []

    def call(version: str = "standard", target: str = "wheel") -> tuple[dict[str, Any], list[str]]:
        (tmp_path / SOMEWHERE).mkdir(parents=True, exist_ok=True)
        if not (tmp_path / SOMEWHERE / SOURCE.name).exists():
            shutil.copy(SOURCE, tmp_path / SOMEWHERE)
        hook, warnings = hatch_build.CompileGroupedProduct(), []
        hooks.append(hook)
        hook.root, hook.target_name, hook.app = str(tmp_path), target, SimpleNamespace(display_warning=warnings.append)
        build_data: dict[str, Any] = {"force_include": {}, "pure_python": True}
        hook.initialize(version, build_data)
        return build_data, warnings

    yield call
    for hook in hooks:
        hook.finalize("standard", {}, "")


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / SOMEWHERE).iterdir())


@on_linux
@needs_gcc
def test_the_library_is_compiled_into_a_package_for_this_machine(build, tmp_path):
    build_data, warnings = build()
    [(library, place)] = build_data.pop("force_include").items()
    assert place == "moecli/moe/libgrouped_product.so" and build_data == {"pure_python": False, "tag": "py3-none-linux_x86_64"}
    assert warnings == [] and files(tmp_path) == ["grouped_product.c"]
    assert (grouped_product._load(Path(library)) is not None) == (torch.backends.cpu.get_cpu_capability() == "AVX512")


@on_linux
@needs_gcc
def test_an_editable_installation_has_it_in_the_source_tree(build, tmp_path):
    build_data, warnings = build(version="editable")
    assert build_data == {"force_include": {}, "pure_python": False, "tag": "py3-none-linux_x86_64"}
    assert warnings == [] and files(tmp_path) == ["grouped_product.c", "libgrouped_product.so"]


@on_linux
@pytest.mark.parametrize("broken", ["no compiler", "no C", "no room"])
def test_without_a_compiler_the_package_is_python_alone_and_says_so(broken, build, tmp_path, monkeypatch):
    (tmp_path / SOMEWHERE).mkdir(parents=True)
    (tmp_path / SOMEWHERE / "libgrouped_product.so").write_text("of an earlier source")
    if broken == "no compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
    if broken == "no C":
        (tmp_path / SOMEWHERE / SOURCE.name).write_text("int of(")
    if broken == "no room":
        monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: (_ for _ in ()).throw(OSError("Read-only file system")))
    build_data, warnings = build(version="editable")
    assert build_data == {"force_include": {}, "pure_python": True}
    assert len(warnings) == 1 and "can't be compiled, so experts and generation will be slower" in warnings[0]
    if broken != "no room":  # a library of another source than what is there would be worse than none
        assert files(tmp_path) == ["grouped_product.c"]


def test_a_source_distribution_has_the_source_alone(build, tmp_path):
    assert build(target="sdist") == ({"force_include": {}, "pure_python": True}, [])
    assert files(tmp_path) == ["grouped_product.c"]


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_elsewhere_nothing_is_compiled(system, machine, build, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert build() == ({"force_include": {}, "pure_python": True}, [])
    assert files(tmp_path) == ["grouped_product.c"]
