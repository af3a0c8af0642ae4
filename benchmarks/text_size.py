"""How much of MaxVio is the size of the text: over the held-out text, over all other text of the corpus that the run never saw, over the
training text, and over parts of that as long as the held-out text.

    python -m benchmarks.text_size RUN [RUN ...]       # runs on the corpus `stdlib`

A bias balances the load of the documents that it was trained on. A few documents, whether it has seen them or not, prefer some experts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from moecli.analysis.load_report import LoadCollector
from moecli.config import LARGEST
from moecli.data.batches import Batch
from moecli.data.corpora import FilesCorpus, StdlibCorpus
from moecli.evaluation.evaluate import evaluate
from moecli.moe.routing import RoutingRecord
from moecli.workflows.opened_run import Split, open_run


def write_unseen(run: Path, path: Path) -> int:
    """Writes the documents of `stdlib` that come after those that the run takes, as jsonl; returns how many.

    A smaller max_bytes gives the first part of a larger one.
    """
    corpus = open_run(run).recipe.data.corpus
    assert isinstance(corpus, StdlibCorpus)
    num_taken = sum(1 for _ in corpus.documents())
    rows = [json.dumps({"text": document.text}) for document in StdlibCorpus(max_bytes=LARGEST).documents()]
    path.write_text("\n".join(rows[num_taken:]), encoding="utf-8")
    return len(rows) - num_taken


def max_violations(run: Path, split: Split, part_tokens: int | None, text: Path | None = None) -> list[float]:
    """MaxVio, mean over layers, of each consecutive part of so many tokens; of the whole split or file if None."""
    opened = open_run(run, split=split, text=FilesCorpus(paths=[str(text)]) if text else None)
    collectors = [LoadCollector()]
    tokens = 0

    def observe(batch: Batch, records: tuple[RoutingRecord | None, ...]) -> None:
        nonlocal tokens
        if part_tokens is not None and tokens >= part_tokens:
            collectors.append(LoadCollector())
            tokens = 0
        collectors[-1].add(records)
        tokens += batch.ids_BS.numel()

    evaluate(opened.model, opened.batches(), opened.tokens.num_bytes, opened.recipe.training.precision, observe)
    if part_tokens is not None and tokens < part_tokens and len(collectors) > 1:
        collectors.pop()  # a rest
    return [mean for collector in collectors if (mean := collector.report().mean()["max_violation"]) is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    headings = [
        "run",
        "held-out text",
        "other unseen text",
        "its documents",
        "training text",
        "its parts: mean",
        "smallest",
        "largest",
        "parts",
    ]
    print(f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", sep="\n")
    for run in parser.parse_args().runs:
        size = len(open_run(run).tokens.ids) - 1
        (held_out,), (training,) = max_violations(run, "validation", None), max_violations(run, "train", None)
        with tempfile.TemporaryDirectory() as folder:
            num_unseen = write_unseen(run, Path(folder) / "unseen.jsonl")
            (unseen,) = max_violations(run, "validation", None, Path(folder) / "unseen.jsonl")
        parts = max_violations(run, "train", size)
        figures = (training, statistics.mean(parts), min(parts), max(parts))
        cells = [f"{held_out:.3f}", f"{unseen:.3f}", str(num_unseen), *(f"{figure:.3f}" for figure in figures), str(len(parts))]
        print(f"| {run.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
