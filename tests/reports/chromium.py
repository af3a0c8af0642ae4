"""Reports opened in a real headless Chromium, and what can be read off them there."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IS_THERE = CHROMIUM is not None and importlib.util.find_spec("playwright") is not None
NEEDS_CHROMIUM = pytest.mark.skipif(
    not IS_THERE, reason="playwright is not installed, or no Chromium on the PATH (on Debian: apt-get install chromium)"
)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Opened:
    """A page from a file, and all that it did besides showing itself."""

    def __init__(self, context: Any, path: Path, width: int) -> None:
        self.page = context.new_page()
        self.page.set_viewport_size({"width": width, "height": 900})
        self.noises: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.noises.append(message.text))
        self.page.on("pageerror", lambda error: self.noises.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.noises.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_text_contents()

    def point_at(self, selector: str, **options: Any) -> dict[str, str]:
        """The tooltip of what is pointed at: its title, and its lines by name."""
        self.page.locator(selector).scroll_into_view_if_needed()
        self.page.wait_for_timeout(50)
        self.page.hover(selector, **options)
        self.page.wait_for_selector("#tooltip:not([hidden])")
        lines = zip(self.texts("#tooltip dt"), self.texts("#tooltip dd"), strict=True)
        return {"title": self.page.text_content("#tooltip strong")} | dict(lines)

    def choose(self, name: str, label: str) -> None:
        self.page.select_option(f"select[name={name}]", label=label)

    def column(self, table: str, name: str) -> list[str]:
        place = self.texts(f"{table} thead th").index(name) + 1
        return self.texts(f"{table} tbody tr > :nth-child({place})")

    def overflow(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
