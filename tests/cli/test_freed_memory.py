"""Freed memory stays with the process, as the page faults of a fresh one show; a user's own setting of glibc stands."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from moecli.cli.freed_memory import M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD, USER_SETTINGS, USER_TUNABLES, keep_freed_memory

# How many page faults it takes to fill 64 MB ten times. In four tensors: old glibc maps one of 64 MB in any case.
FILLING = """
import resource, sys
import torch
from moecli.cli import app
from moecli.cli.freed_memory import keep_freed_memory

def fill():
    tensors = [torch.ones(4 << 20) for _ in range(4)]

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def run(arguments, *, debug):
    fill()
    before = page_faults()
    for _ in range(10):
        fill()
    print(page_faults() - before)
    return 0

if sys.argv[1] == "command":
    app.run = run
    app.main()
elif sys.argv[1] == "kept":
    keep_freed_memory()
run([], debug=False)
"""


def faults_of(way: str, **settings: str) -> int:
    """Of a process where freed memory is `kept`, or not (`plain`), or which is the whole `command`."""
    environment = {name: value for name, value in os.environ.items() if name not in (*USER_SETTINGS, "GLIBC_TUNABLES")}
    call = [sys.executable, "-c", FILLING, way]
    return int(subprocess.run(call, env=environment | settings, capture_output=True, check=True, text=True).stdout)


def has_mallopt() -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt)
    except (AttributeError, OSError):
        return False


needs_mallopt = pytest.mark.skipif(not has_mallopt(), reason="the C library has no mallopt")


@pytest.fixture(scope="module")
def plain_faults() -> int:
    return faults_of("plain")


@needs_mallopt
@pytest.mark.parametrize("way", ["kept", "command"])
def test_the_same_memory_is_filled_again(way, plain_faults):
    assert faults_of(way) < plain_faults / 4


@needs_mallopt
def test_under_a_users_setting_memory_goes_back_as_before(plain_faults):
    assert faults_of("kept", MALLOC_TRIM_THRESHOLD_="131072") > plain_faults * 3 / 4


class FakeLibrary:
    """A C library whose mallopt refuses thresholds over `largest`, and which keeps what it was told."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.options: dict[int, int] = {}

    def mallopt(self, option: int, value: int) -> int:
        if option == M_MMAP_THRESHOLD and value > self.largest:
            return 0
        self.options[option] = value
        return 1


def library(monkeypatch: pytest.MonkeyPatch, largest: int = 2**31 - 1) -> FakeLibrary:
    for name in (*USER_SETTINGS, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeLibrary(largest)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake)
    return fake


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "131072") for name in USER_SETTINGS),
        *(("GLIBC_TUNABLES", f"glibc.malloc.hugetlb=1:{name}=131072") for name in USER_TUNABLES),
    ],
)
def test_each_setting_of_a_user_stands(name, value, monkeypatch):
    fake = library(monkeypatch)
    monkeypatch.setenv(name, value)
    keep_freed_memory()
    assert fake.options == {}


@pytest.mark.parametrize("tunables", ["glibc.pthread.rseq=1", "glibc.malloc.hugetlb=1"])
def test_what_a_user_tunes_elsewhere_does_not_matter(tunables, monkeypatch):
    fake = library(monkeypatch)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    keep_freed_memory()
    assert fake.options.keys() == {M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD}


def test_old_glibc_gets_what_it_takes(monkeypatch):
    fake = library(monkeypatch, largest=32 << 20)
    keep_freed_memory()
    assert fake.options[M_MMAP_THRESHOLD] == 32 << 20


def test_nothing_happens_without_mallopt(monkeypatch):
    library(monkeypatch)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()


def test_nothing_happens_without_a_library(monkeypatch):
    def refuse(name: str | None) -> None:
        raise OSError("no such library")

    library(monkeypatch)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    keep_freed_memory()
