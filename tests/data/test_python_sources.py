"""Sources are found through the import system, in folders and zip files, and nothing is imported."""

from __future__ import annotations

import sys
import zipfile

import pytest

from moecli.data.python_sources import LANDMARKS, find_source, find_sources, library_roots

MODULES = {
    **{f"{name}.py": f"# {name}\n" for name in LANDMARKS},
    "wave.py": "raise SystemExit('imported')\n",
    "json/__init__.py": "# json\n",
    "json/tool.py": "# tool\r\n",
    "json/test/__init__.py": "# left out\n",
    "json/test/deep.py": "# left out\n",
    "bad.py": b"x = '\xff'\n",
    "empty.py": "",
}
NAMES = ["bad", "empty", "json", "missing", "wave"]


def packed(place, kind):
    if kind == "folder":
        for name, text in MODULES.items():
            path = place / "site-packages" / "test" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(place / "site-packages" / "test")
    with zipfile.ZipFile(place / "python.zip", "w") as archive:
        for name, text in MODULES.items():
            archive.writestr(name, text)
    return str(place / "python.zip")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_sources_by_hand(tmp_path, kind):
    root = packed(tmp_path, kind)
    before = set(sys.modules)
    assert list(find_sources(NAMES, [root], {"test"})) == [
        ("json", "# json\n"),
        ("json.tool", "# tool\n"),
        ("wave", "raise SystemExit('imported')\n"),
    ]
    assert set(sys.modules) - before == set()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_source(tmp_path, kind):
    root = packed(tmp_path, kind)
    assert find_source("json.tool", [root]) == "# tool\n"
    assert find_source("json.missing", [root]) is None
    assert find_source("wave.inside", [root]) is None


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_roots_are_where_the_landmarks_are(tmp_path, kind):
    root = packed(tmp_path, kind)
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "os.py").write_text("# mine\n")
    assert library_roots(["", str(shadow), str(tmp_path / "missing"), root]) == [root]
