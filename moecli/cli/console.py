"""The two streams: results on stdout, everything else that people read on stderr when stdout has to stay clean.

Knows rich. Must not know any command.
"""

from __future__ import annotations

import errno
import json
import os
import unicodedata
from collections.abc import Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from moecli.cli import launcher
from moecli.workflows.plain_json import finite

# Lines that are piped into a file are not broken at the width of a terminal that isn't there.
PIPED_WIDTH = 200


def stdout() -> Console:
    return _console(stderr=False)


def stderr() -> Console:
    return _console(stderr=True)


def for_people(as_json: bool) -> Console:
    """Where text for people goes: with --json stdout belongs to the one JSON object. Of several processes one speaks."""
    console = stderr() if as_json else stdout()
    console.quiet = not launcher.is_first()
    return console


def print_json(content: dict[str, Any]) -> None:
    """Exactly one JSON object on stdout. JSON has no word for NaN and infinity: they become null."""
    stdout().print(json.dumps(finite(content), allow_nan=False), soft_wrap=True, markup=False, highlight=False)


def visible(text: str, most: int | None = None) -> str:
    """Text from data as a terminal may have it: what would move the cursor, colour or reverse other text is spelled out (\\x1b).

    With `most`, no longer than so many characters, the end left out.
    """
    shown = "".join(character if _is_visible(character) else character.encode("unicode_escape").decode("ascii") for character in text)
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def print_notices(console: Console, notices: Sequence[str]) -> None:
    """What was done with the input that the user may not expect."""
    for notice in notices:
        console.print(f"note: {notice}", soft_wrap=True, markup=False, highlight=False)


def print_error(message: str) -> None:
    """A user's error: the first line in red, where there is colour."""
    first, *rest = [visible(line) for line in message.split("\n")]
    console = stderr()
    console.print(f"[red]error:[/red] {escape(first)}", soft_wrap=True, highlight=False)
    for line in rest:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr)
    return console if console.is_terminal else _Console(stderr=stderr, width=PIPED_WIDTH)


class _Console(Console):
    """Spells out what would give the terminal commands, wherever the text is from, file names included; and tells the command when the
    reader of its pipe has gone, where rich would end the program and the work with it.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(visible(line) for line in text.split("\n")), **options)

    def on_broken_pipe(self) -> NoReturn:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())  # what is buffered would complain again at exit
        os.close(nowhere)
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
