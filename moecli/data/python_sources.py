"""Finding the source text of modules through the import system, without importing them.

Knows finders and loaders. Must not know which modules are wanted, nor what becomes of the text.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib.abc import InspectLoader
from zipimport import ZipImportError, zipimporter

# An entry of sys.path that has all of these is where the standard library lives; one that shadows a module of it is not.
LANDMARKS = ("os", "io", "codecs", "argparse")


def library_roots(search_path: Iterable[str]) -> list[str]:
    """The entries of a search path, folders or zip files, that hold the standard library."""
    return [entry for entry in search_path if entry and all(find_source(name, [entry]) for name in LANDMARKS)]


def find_sources(names: Iterable[str], roots: Sequence[str], left_out: Collection[str]) -> Iterator[tuple[str, str]]:
    """(dotted name, source) of the modules of these names and of all modules inside them, in the order of their names.

    `left_out` are last parts of dotted names: neither a module of such a name nor what is inside it is taken.
    """
    for name in names:
        yield from _walk(name, roots, left_out)


def find_source(name: str, roots: Sequence[str]) -> str | None:
    """The source of the module with this dotted name, or None where there is none."""
    path, source = roots, None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        source, path = _find(".".join(parts[:depth]), path)
    return source


def _walk(name: str, path: Sequence[str], left_out: Collection[str]) -> Iterator[tuple[str, str]]:
    if name.rpartition(".")[2] in left_out:
        return
    source, inside = _find(name, path)
    if source:
        yield name, source
    for module in sorted(pkgutil.iter_modules(inside), key=lambda module: module.name):
        yield from _walk(f"{name}.{module.name}", inside, left_out)


def _find(name: str, path: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The source of a module, None where there is none that can be read, and where the modules inside it are."""
    for entry in path:
        finder = pkgutil.get_importer(entry)
        try:
            if isinstance(finder, zipimporter):
                # Not by find_spec, which compiles what is in a zip file.
                source = finder.get_source(name)
                inside = [f"{entry}/{name.rpartition('.')[2]}"] if finder.is_package(name) else []
            else:
                spec = finder.find_spec(name) if finder else None
                if spec is None or not isinstance(spec.loader, InspectLoader):
                    continue
                source, inside = spec.loader.get_source(name), list(spec.submodule_search_locations or [])
        except ZipImportError:
            continue
        except (ImportError, UnicodeDecodeError, SyntaxError, OSError):
            return None, []
        # A source in a zip file comes with the line ends that it was packed with.
        return source and source.replace("\r\n", "\n"), inside
    return None, []
