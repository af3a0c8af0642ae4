"""`moecli generate`.

Knows its options and how to show a text. Must not know how one is written.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moecli.cli import console
from moecli.cli.options import JsonOption

if TYPE_CHECKING:
    from moecli.workflows.events import Event
    from moecli.workflows.generate import GenerateRequest, Generation, Prompt

EPILOG = (
    'Examples: `moecli generate RUN --prompt "def "`, `moecli generate RUN --temperature 0 --stop "class "`, '
    "`moecli generate RUN --prompt-file - --num-samples 4 --json < prompt.txt`."
)
STDIN = "-"
MOST_TOKENS, MOST_SAMPLES = 1_000_000, 1000
# Of a prompt, in the heading over its text.
MOST_LETTERS = 40


def _temperature(value: float) -> float:
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{value} is not a finite number of 0 or more.")
    return value


def _top_p(value: float | None) -> float | None:
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"{value} is not above 0 and at most 1.")
    return value


def _stop(values: list[str] | None) -> list[str]:
    if not all(values or []):
        raise typer.BadParameter("an empty text would stop everything at once.")
    return values or []


def generate_command(
    run: Annotated[Path, typer.Argument(help="A run folder (its latest checkpoint), or a checkpoint folder in one.", show_default=False)],
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text to go on with. Can be repeated. Default: a new document begins.", show_default=False)
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A file to go on with, as it is, its last line break included; - is stdin.", show_default=False),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Most tokens of each text, the prompt not counted.")] = 200,
    temperature: Annotated[
        float, typer.Option(callback=_temperature, help="Divides the logits; 0 always takes the most probable token.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from the so many most probable tokens alone.", show_default=False)] = None,
    top_p: Annotated[
        float | None,
        typer.Option(callback=_top_p, help="Draw from the smallest set of tokens whose probability reaches this.", show_default=False),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, max=MOST_SAMPLES, help="Texts for each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the draws.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(callback=_stop, help="End before this text. Can be repeated.", show_default=False)
    ] = None,
    compile_step: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Make one program of the step of a token first (torch.compile; needs a C++ compiler). That takes 10 to 15 seconds, 3 the "
            "next time; then small models write 4 to 5 times as fast, large ones 1.2 times. Pays for thousands of tokens of one text; "
            "several at a time may be slower.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write text with a trained run, token by token, until the end of the text, a stop text, or --max-tokens."""
    if prompt and prompt_file is not None:
        raise typer.BadParameter("give --prompt or --prompt-file, not both", param_hint="--prompt-file")
    from moecli.model.generate import Sampling
    from moecli.workflows.generate import GenerateRequest, Prompt

    prompts = [Prompt(text) for text in prompt or [""]] if prompt_file is None else [_read_prompt(prompt_file)]
    sampling = Sampling(temperature, top_k, top_p)
    _generate(run, GenerateRequest(prompts, num_samples, max_tokens, sampling, seed, stop or (), compile_step), as_json)


def _generate(run: Path, request: GenerateRequest, as_json: bool) -> None:
    """Writes and shows. Ctrl-C shows what there is; where nothing is written yet, it ends everything at once."""
    from moecli.cli.stage_progress import StageProgress
    from moecli.cli.stop import Stopped, StopRequest
    from moecli.workflows.generate import COMPILING, generate_text

    num_texts = len(request.prompts) * request.num_samples
    screen = _Screen(request.prompts[0].text, is_shown=not as_json and num_texts == 1)
    people = console.stderr()
    interrupt = StopRequest(people, said="")

    def show(index: int, piece: str) -> None:
        interrupt.begin()
        screen.show(index, piece)

    def follow(event: Event) -> None:
        if not screen.is_shown or event == COMPILING:
            progress.show(event)

    with StageProgress(people) as progress, screen, interrupt.armed():
        generation = generate_text(run, request, show, follow, interrupt.is_requested)
    if as_json:
        console.print_json(generation.to_json())
    else:
        if not screen.is_shown:
            _print_texts(generation, request)
        _print_summary(generation)
    if generation.is_interrupted:
        raise Stopped(interrupt.exit_code)


class _Screen:
    """A single text that grows on stdout, behind its prompt in a terminal."""

    def __init__(self, prompt: str, *, is_shown: bool) -> None:
        self.is_shown = is_shown
        self._prompt = prompt
        self._begun = False

    def show(self, index: int, piece: str) -> None:
        if not self.is_shown:
            return
        if not self._begun:
            _print_prompt(self._prompt)
            self._begun = True
        _write(piece)

    def __enter__(self) -> _Screen:
        return self

    def __exit__(self, *exception: object) -> None:
        """The line ends, also where Ctrl-C ended the text."""
        if self._begun:
            _write("\n")


def _print_texts(generation: Generation, request: GenerateRequest) -> None:
    pairs = list(zip(generation.prompts, generation.texts, strict=True))
    out = console.stdout()
    for place, (prompt, text) in enumerate(pairs):
        of_prompt = f", prompt {place // request.num_samples + 1}: {_beginning(prompt)}" if len(request.prompts) > 1 else ""
        heading = f"--- {place + 1} of {len(pairs)}{of_prompt} ---"
        out.print(heading, style="bold", markup=False, highlight=False, soft_wrap=True)
        _print_prompt(prompt)
        _write(f"{text}\n")


def _beginning(prompt: str) -> str:
    return console.visible(prompt[: MOST_LETTERS + 1], MOST_LETTERS) or "(a new document)"


def _print_prompt(prompt: str) -> None:
    """In a terminal, set apart from what follows; a pipe gets the text alone."""
    out = console.stdout()
    if out.is_terminal:
        out.print(_printable(prompt), style="dim", end="", soft_wrap=True, markup=False, highlight=False)


def _print_summary(generation: Generation) -> None:
    err = console.stderr()
    ends = ", ".join(dict.fromkeys(generation.finishes))
    rate = "" if generation.tokens_per_s is None else f" {generation.tokens_per_s:,.1f} tokens/s,"
    compiling = "" if generation.seconds.compiling is None else f" after {generation.seconds.compiling:.1f} s of compiling,"
    figures = f"{generation.tokens:,} token{'s' * (generation.tokens != 1)},{rate}{compiling} ended by: {ends}"
    err.print(figures, markup=False, highlight=False, soft_wrap=True)
    console.print_notices(err, generation.notes)


def _write(text: str) -> None:
    """To stdout as it is: rich would make spaces of tabs."""
    file = console.stdout().file
    file.write(_printable(text))
    file.flush()


def _printable(text: str) -> str:
    """The text with every control character but line breaks and tabs spelled out."""
    return re.sub(r"[^\n\t]+", lambda part: console.visible(part[0]), text)


def _read_prompt(file: str) -> Prompt:
    from moecli.errors import DataError
    from moecli.workflows.generate import Prompt

    where = "stdin" if file == STDIN else file
    try:
        content = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        # A mark of byte order, as some editors put it at the beginning of a file, is no part of its text.
        return Prompt(content.decode().removeprefix("\ufeff"), where)
    except UnicodeDecodeError as error:
        what = f"not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start:,}"
        raise DataError(what, where=where, next_step="convert it to UTF-8") from error
    except OSError as error:
        raise DataError(
            f"can't be read: {error.strerror}", where=where, next_step="give the path of a text file, or - for stdin"
        ) from error
