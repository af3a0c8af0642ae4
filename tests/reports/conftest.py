"""A browser for the tests of pages, started once for each file of tests that needs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moecli.reports.html import write_html
from tests.reports.chromium import ARGUMENTS, CHROMIUM, Opened


@pytest.fixture(scope="module")
def context():
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser.new_context()
        browser.close()


@pytest.fixture
def opened(context, tmp_path):
    """Opens a report, or what `write` makes of it; afterwards the page must have been silent, and have loaded itself alone."""
    pages = []

    def open_page(content: dict[str, Any], width: int = 1280, write: Callable[[dict[str, Any], Path], None] = write_html) -> Opened:
        path = tmp_path / f"{len(pages)}.html"
        write(content, path)
        pages.append((Opened(context, path, width), path))
        return pages[-1][0]

    yield open_page
    for page, path in pages:
        page.page.close()
        assert page.noises == []
        assert page.requests in ([path.as_uri()], [path.as_uri(), "data:,"])
