"""What the tests of all corpora share."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing here may ask for the address of another machine; `datasets` swallows the error, so the calls are counted."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: asked.append(args) or [])
    yield
    assert asked == []
