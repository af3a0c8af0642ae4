"""Draws broken recipes and valid ones with hypothesis, and counts what the command line and the model do with them.

    python -m benchmarks.broken_recipes                          # 2,500 broken and 600 valid; about five minutes on 2 CPU cores
    python -m benchmarks.broken_recipes --broken 200 --valid 50

Ends with an error at the first broken recipe that is not refused with exit code 2 and the place within two seconds, and at the first valid
one that does not load, build on the meta device and turn one batch into finite logits.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.hostile.counted_recipes import KINDS, count_broken, count_valid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broken", type=int, default=2500)
    parser.add_argument("--valid", type=int, default=600, help="in all; every kind of feed-forward and router gets its part")
    parser.add_argument("--seed", type=int, default=0, help="of the broken ones")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = count_broken(arguments.broken, Path(folder), arguments.seed)
    fine = counts.pop("fine", 0)
    print(f"{counts.total()} broken recipes: exit code 2 and the place each, no traceback ({fine} more turned out to be fine)")
    for how, number in counts.most_common():
        print(f"  {how:<10} {number:>5}")
    built = {kinds: count_valid(-(-arguments.valid // len(KINDS)), *kinds) for kinds in KINDS}
    print(f"{sum(built.values())} valid recipes: loaded, built, one forward pass each")
    for (ffn, router), number in built.items():
        print(f"  {ffn:<8} {router if ffn == 'sparse' else '':<16} {number:>5}")


if __name__ == "__main__":
    main()
