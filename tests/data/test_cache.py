"""An entry of the cache is there whole or not at all, whoever else is writing and whatever fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from moecli.data.cache import Cache, cache_folder
from moecli.errors import DataError, MachineError


def read(folder):
    path = folder / "value"
    text = path.read_text() if path.exists() else ""
    return text or None


def write(text):
    return lambda folder: (folder / "value").write_text(text) and None


def refuse(folder):
    raise AssertionError("built although it is there")


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_built_once(cache):
    assert cache.obtain("key", read, write("one")) == "one"
    assert cache.obtain("key", read, refuse) == "one"
    assert cache.obtain("other", read, write("two")) == "two"
    assert contents(cache.folder) == ["key", "other"]


def test_a_damaged_entry_is_built_again(cache):
    cache.obtain("key", read, write("one"))
    (cache.folder / "key" / "value").write_text("")
    (cache.folder / "key" / "more").write_text("")
    assert cache.obtain("key", read, write("two")) == "two"
    assert contents(cache.folder) == ["key"]
    assert contents(cache.folder / "key") == ["value"]


def test_another_process_is_quicker(cache):
    def build(folder):
        Cache(cache.folder).obtain("key", read, write("quicker"))
        write("slower")(folder)

    assert cache.obtain("key", read, build) == "quicker"
    assert contents(cache.folder) == ["key"]


@pytest.mark.parametrize("error", [DataError("no text"), KeyboardInterrupt(), RuntimeError("slip")])
def test_nothing_half_written_is_left_behind(cache, error):
    def build(folder):
        write("half")(folder)
        raise error

    with pytest.raises(type(error)):
        cache.obtain("key", read, build)
    assert contents(cache.folder) == []


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "no permission"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("place", ["mkdir", "build", "replace"])
def test_the_disk_refuses(cache, monkeypatch, number, reason, place):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    build = write("half")
    if place == "build":
        build = fail
    else:
        monkeypatch.setattr(*((Path, "mkdir") if place == "mkdir" else (os, "replace")), fail)
    with pytest.raises(MachineError) as caught:
        cache.obtain("key", read, build)
    assert f"{cache.folder}: can't read or write here: {reason}" in str(caught.value)
    assert "data.cache_dir" in caught.value.next_step
    assert "MOECLI_CACHE" in caught.value.next_step
    assert caught.value.exit_code == 1
    assert not cache.folder.exists() or contents(cache.folder) == []


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="a file is where a folder belongs"):
        Cache(tmp_path / "file" / "cache").obtain("key", read, write("one"))


def test_what_can_not_be_read_back(cache):
    with pytest.raises(MachineError, match="can't be read back") as caught:
        cache.obtain("key", lambda folder: None, write("one"))
    assert str(cache.folder / "key") in str(caught.value)


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("MOECLI_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder(None) == Path("/home/me/.cache/moecli")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder(None) == Path("/xdg/moecli")
    monkeypatch.setenv("MOECLI_CACHE", "~/mine")
    assert cache_folder(None) == Path("/home/me/mine")
    assert cache_folder("~/configured") == Path("/home/me/configured")
