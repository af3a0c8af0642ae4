"""Broken and valid recipes through the command line and the model, counted.

Knows what has to come out. Must not know how recipes are drawn.
"""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections import Counter
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from moecli.cli import app
from moecli.model.init import build_gpt
from moecli.moe.layers import FEED_FORWARDS
from moecli.moe.routers import ROUTERS
from moecli.recipe.schema import Recipe
from tests.hostile.broken_recipes import BrokenRecipe, broken_recipes
from tests.hostile.valid_recipes import valid_recipes

# A message about a whole file has no line to name.
ABOUT_THE_FILE = r"the recipe is empty|this is no recipe"
MOST_SECONDS = 2.0
VOCAB_SIZE = 300
KINDS = [(ffn, router) for ffn in FEED_FORWARDS for router in (ROUTERS if ffn == "sparse" else ["topk"])]


def count_broken(number: int, folder: Path, first_seed: int = 0) -> Counter[str]:
    """Draws so many recipes, checks what the command line says of each, and counts the ways in which they were broken; "fine" counts
    those that turned out to be well."""
    counts: Counter[str] = Counter()
    file = folder / "broken.yaml"

    @seed(first_seed)
    @_drawn(number)
    @given(broken_recipes())
    def check(broken: BrokenRecipe) -> None:
        file.write_bytes(broken.content)
        overrides = [part for override in broken.overrides for part in ("--set", override)]
        before = time.perf_counter()
        exit_code, message = _run("recipes", "validate", str(file), *overrides)
        seconds = time.perf_counter() - before
        assert exit_code == 2 or (exit_code == 0 and not broken.is_surely_broken), (exit_code, broken, message)
        assert seconds < MOST_SECONDS, (seconds, broken)
        if exit_code:
            place = re.escape(broken.named) if broken.named else rf"broken\.yaml:\d+|--set |{ABOUT_THE_FILE}"
            assert re.search(place, message), (place, broken, message)
            assert "Traceback" not in message
        counts[broken.how.split()[0] if exit_code else "fine"] += 1

    check()
    return counts


def count_valid(number: int, ffn: str, router: str) -> int:
    """Draws so many recipes of one kind, builds each on the meta device and lets one batch through it; returns how many there were."""
    counts: Counter[str] = Counter()

    @seed(0)
    @_drawn(number)
    @given(valid_recipes(ffn, router))
    def check(drawn: tuple[str, Recipe]) -> None:
        text, recipe = drawn
        assert recipe.model.ffn.kind == ffn, text
        model = build_gpt(recipe.model, VOCAB_SIZE, recipe.seed)  # on the meta device first
        ids_BS = torch.randint(0, VOCAB_SIZE, (recipe.training.micro_batch_size, recipe.data.seq_len))
        logits_BSV, records = model(ids_BS)
        assert logits_BSV.shape == (*ids_BS.shape, VOCAB_SIZE), text
        assert logits_BSV.isfinite().all(), text
        assert len(records) == recipe.model.num_layers, text
        counts["built"] += 1

    check()
    return counts["built"]


def _drawn(number: int) -> settings:
    """No shrinking, no database: the same recipes each time."""
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    return settings(max_examples=number, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=slow)


def _run(*arguments: str) -> tuple[int, str]:
    """The command line in this process: its exit code and what it says. An exception that it doesn't turn into a message comes through."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return app.run(list(arguments), debug=False), said.getvalue()
