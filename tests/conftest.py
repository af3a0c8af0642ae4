"""What all tests share: a cache of their own, and a recipe that trains in a second."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tiny models gain nothing from threads, and threads that wait for each other on a busy machine cost a hundredfold.
# Set before torch is imported, and inherited by every process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"

TINY_TEXT = "\n\n".join(
    f"Line {number} of a text about {word} and {word}s.\nIt goes on for {number} words."
    for number in range(120)
    for word in ("cat", "tree")
)

TINY_RECIPE = """\
name: tiny
data:
  corpus: {kind: files, paths: [text.txt]}
  tokenizer: {kind: byte}
  seq_len: 16
model:
  d_model: 16
  num_layers: 2
  num_heads: 2
  ffn: {kind: sparse, num_experts: 4, d_expert: 16, router: {kind: topk, top_k: 2}}
training: {steps: 6, batch_size: 4, log_every: 1, checkpoint_every: 4, device: cpu}
evaluation: {every: 4, batch_size: 8}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("MOECLI_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tiny_recipe(tmp_path, monkeypatch) -> Path:
    """A recipe file beside its text, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TINY_TEXT, encoding="utf-8")
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def products_of_torch(monkeypatch) -> None:
    """As where moe/grouped_product.c is not compiled."""
    from moecli.moe import grouped_product

    monkeypatch.setattr(grouped_product, "LIBRARY", None)
