"""The `moecli` command: its sub-commands, and the one place that turns errors into a line and an exit code.

Knows the command table. Must not import torch: `moecli --help` answers at once.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any

import typer

import moecli
from moecli.cli import compare_dense as compare_dense_file
from moecli.cli import console, launcher
from moecli.cli import convert as convert_file
from moecli.cli import eval as eval_file
from moecli.cli import generate as generate_file
from moecli.cli import route_stats as route_stats_file
from moecli.cli import train as train_file
from moecli.cli.freed_memory import keep_freed_memory
from moecli.cli.recipes import recipes_app
from moecli.cli.stop import Stopped
from moecli.errors import Interrupted, MoecliError

# What typer raises for a wrong command line. Some versions of typer have click as a dependency, others inside; both have this class.
UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="moecli",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A laboratory for Mixture-of-Experts language models: train small ones, see what their experts do.",
    epilog="Begin with: moecli train quickstart",
)
app.command("train", epilog=train_file.EPILOG)(train_file.train_command)
app.command("eval", epilog=eval_file.EPILOG)(eval_file.eval_command)
app.command("route-stats", epilog=route_stats_file.EPILOG)(route_stats_file.route_stats_command)
app.command("compare-dense", epilog=compare_dense_file.EPILOG)(compare_dense_file.compare_dense_command)
app.command("generate", epilog=generate_file.EPILOG)(generate_file.generate_command)
app.command("convert", epilog=convert_file.EPILOG)(convert_file.convert_command)
app.add_typer(recipes_app, name="recipes")


def _print_version(wanted: bool) -> None:
    if wanted:
        console.stdout().print(f"moecli {moecli.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error; works after any command too.")] = False,
) -> None:
    """Options before the command. `--debug` is read by `main`, which takes it from anywhere in the line."""
    if context.invoked_subcommand != "train":
        launcher.refuse(f"moecli {context.invoked_subcommand}")


def main() -> None:
    """Runs the command line and exits: 0 done, 1 the work failed, 2 wrong usage, recipe or input, 130 interrupted (143 by SIGTERM, 129 by
    SIGHUP)."""
    # GNU OpenMP's threads wait for each other in a busy loop, which another process on the same cores turns into a standstill. A short
    # loop before they sleep costs little when alone. Read once, when torch is imported; a user's own setting stands.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # glibc gives what a training step freed back to the system, which then has to zero the same pages again in the next step.
    keep_freed_memory()
    # A character that the terminal or the pipe can't take is spelled out.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    _leave_on_signals()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    exit_codes: list[int] = []
    if launcher.has_started_several():
        atexit.register(_end_at_once, exit_codes)  # registered first, called last
    try:
        exit_codes.append(run(arguments, debug=debug))
    except SystemExit as leaving:
        exit_codes.append(leaving.code if isinstance(leaving.code, int) else 1)
    sys.exit(exit_codes[0])


def _end_at_once(exit_codes: list[int]) -> None:
    """Ends the process, now that all is said and done. A thread that waits for other processes in torch may be left behind where these are
    lost; it would ask an interpreter that is gone for what it returns, and abort the process."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(exit_codes[0] if exit_codes else 1)


def _leave_on_signals() -> None:
    """SIGTERM and SIGHUP end the command as an exception does, so that nothing half-written stays. Training has its own way (stop.py)."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # of nohup
            signal.signal(number, leave)


def run(arguments: list[str], *, debug: bool) -> int:
    """Runs one command line and returns its exit code; with `debug` the traceback of an error is shown."""
    as_json = "--json" in arguments
    try:
        result: Any = app(args=arguments, standalone_mode=False)
        exit_code = result if isinstance(result, int) else 0
    except typer.Exit as stop:
        exit_code = stop.exit_code
    except UsageError as error:
        if not launcher.is_first_here():
            launcher.give_way()
            return int(error.exit_code)
        error.show()
        if as_json:
            console.print_json({"error": error.format_message()})
        return int(error.exit_code)
    except Stopped as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        exit_code = Interrupted.exit_code
    except BrokenPipeError:
        # The reader of a pipe went away; a further write at exit would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error, as_json=as_json)
    # typer turns Ctrl-C into an exit code without a word.
    return _report(Interrupted("interrupted"), as_json=as_json) if exit_code == Interrupted.exit_code else exit_code


def _report(error: Exception, *, as_json: bool) -> int:
    if isinstance(error, MoecliError):
        message, exit_code = str(error), error.exit_code
    elif isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        message, exit_code = "out of memory\n  next: make the model, data.seq_len or training.batch_size smaller", 1
    elif isinstance(error, OSError):
        message, exit_code = f"{error.filename or 'the system'}: {error.strerror or error}\n  next: check the disk and the permissions", 1
    else:
        message, exit_code = f"{type(error).__name__}: {error}\n  next: this is a bug in moecli; run again with --debug and report it", 1
    with suppress(BrokenPipeError):  # who reads the exit code still wants it
        console.print_error(message)
    if as_json:
        console.print_json({"error": message})
    return exit_code
