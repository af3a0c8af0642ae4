"""What the options that belong to `moecli train --dry-run` need beside them.

Knows options by name. Must not know what is planned.
"""

from __future__ import annotations

import math

from moecli.errors import MoecliError

# More than there are in any machine, and few enough for every count to stay exact.
MOST_PROCESSES = 1_000_000


def check_plan_options(dry_run: bool, processes: int | None, bandwidth: float | None, speed: float | None) -> None:
    """Raises MoecliError for an option that stands alone, and for a speed that is none."""
    if processes is not None and not dry_run:
        what = "plans a training on several processes, it starts none"
        next_step = f"torchrun --nproc-per-node {processes} -m moecli train RECIPE starts them"
        raise MoecliError(what, where="--processes", allowed="with --dry-run", next_step=next_step)
    for name, value in (("--bandwidth", bandwidth), ("--speed", speed)):
        if value is None:
            continue
        if processes is None:
            what = "tells how fast several processes are, and their number is missing"
            raise MoecliError(what, where=name, allowed="with --dry-run --processes N", next_step="add them, or leave it out")
        if not (math.isfinite(value) and value > 0):
            raise MoecliError(f"{value:g} is no speed", where=name, allowed="a number above 0")
