"""The closing words of `moecli train --profile`: the phases of a step, and its most expensive operations.

Knows the result of the profile workflow. Must not compute figures.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from moecli.workflows.profile import TABLE, TRACE, ProfileResult

MOST_OPERATIONS = 15


def print_profile(console: Console, result: ProfileResult) -> None:
    """The table in full is in the folder."""
    profile = result.profile
    phases = ", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in profile.phases.items())
    console.print(f"a step on {result.device} with {result.threads} CPU threads: {phases}", soft_wrap=True, highlight=False)
    table = Table(box=None)
    for head in ("operation", "calls per step", "ms per step", "share"):
        table.add_column(head, justify="left" if head == "operation" else "right")
    for operation in profile.operations[:MOST_OPERATIONS]:
        table.add_row(operation.name, f"{operation.calls:,.0f}", f"{operation.milliseconds:.2f}", f"{operation.share:.1%}")
    console.print(table, highlight=False)
    console.print("profiling slows small operations down: shares say more than milliseconds do", soft_wrap=True, highlight=False)
    console.print(f"wrote {result.folder / TABLE}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"wrote {result.folder / TRACE}, for chrome://tracing or ui.perfetto.dev", soft_wrap=True, highlight=False, markup=False)
