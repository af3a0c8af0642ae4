"""The training that the benchmarks of reliability run: a model of 20 thousand parameters on 18 kB of text, with steps of milliseconds.

Knows a recipe. Its router draws noise, so that a wrong random generator shows, and it saves, prunes and validates often.
"""

from __future__ import annotations

from pathlib import Path

from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe

TEXT = "\n\n".join(f"Line {number} of a text about {word} and {word}s.\nIt goes on." for number in range(200) for word in ("cat", "tree"))
RECIPE = """\
name: tiny
data:
  corpus: {{kind: files, paths: [{text}]}}
  tokenizer: {{kind: byte}}
  cache_dir: {cache}
  seq_len: 16
model:
  d_model: 16
  num_layers: 2
  num_heads: 2
  ffn: {{kind: sparse, num_experts: 4, d_expert: 16, router: {{kind: noisy_topk, top_k: 2}}}}
training:
  steps: {steps}
  batch_size: 4
  log_every: {log_every}
  checkpoint_every: {checkpoint_every}
  keep_last: 2
  keep_best: true
  device: cpu
evaluation: {{every: {evaluate_every}, batch_size: 32}}
"""


def tiny_recipe(folder: Path, *, steps: int, log_every: int, checkpoint_every: int, evaluate_every: int) -> Recipe:
    """Its text, cache and file lie in `folder`."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    filled = RECIPE.format(
        text=folder / "text.txt",
        cache=folder / "cache",
        steps=steps,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        evaluate_every=evaluate_every,
    )
    (folder / "tiny.yaml").write_text(filled, encoding="utf-8")
    return load_recipe(folder / "tiny.yaml").recipe
