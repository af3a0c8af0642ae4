"""`moecli route-stats`: who routes where, from a model and a text to one report.

Knows the order of the pieces. Must not know how a report is drawn or shown.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from moecli.analysis.coactivation import coactivation
from moecli.analysis.consistency import consistency
from moecli.analysis.load_report import LoadCollector, LoadReport
from moecli.analysis.paths import paths
from moecli.analysis.sample import PIECE_TOKENS, RoutingSample, SampleCollector
from moecli.analysis.saturation import saturation
from moecli.analysis.specialisation import POSITION, SHUFFLES, Specialisations, specialise
from moecli.data.batches import Batch
from moecli.errors import RunError
from moecli.evaluation.ablation import ablate
from moecli.evaluation.evaluate import Evaluation, evaluate
from moecli.model.gpt import GPT
from moecli.moe.routing import RoutingRecord
from moecli.workflows.batches import spread_batches
from moecli.workflows.events import Listener, Progress, Stage
from moecli.workflows.over_training import earlier_checkpoints, load_earlier, training_curves
from moecli.workflows.plain_json import finite
from moecli.workflows.routing_subject import RoutingSubject, TextChoice, check_labels, open_subject
from moecli.workflows.run_dir import step_of
from moecli.workflows.stats_folder import stats_target, write_stats
from moecli.workflows.stats_notes import stats_notes
from moecli.workflows.token_text import name_tokens, text_view


@dataclass(frozen=True, slots=True)
class StatsOptions:
    """What to look at, and how closely."""

    text: TextChoice = field(default_factory=TextChoice)
    by: tuple[str, ...] = ()
    """Labels to look for specialisation in. Default: all that the text has, and the position."""
    min_count: int = 20
    """Tokens that a label's value, or a token id, needs to be judged."""
    sample_tokens: int = 131_072
    """Tokens that specialisation, structure and the text view are taken from, at most."""
    over_training: bool = False
    """Look at the run's earlier checkpoints too."""
    ablate: bool = False
    """Switch each expert off in turn."""
    ablate_tokens: int = 16_384
    """Tokens of text for that, evenly spread, in whole batches."""
    num_shuffles: int = SHUFFLES
    """Exchanges of the documents, to see what chance gives."""
    load_alone: bool = False
    """Leave specialisation and structure out."""


@dataclass(frozen=True, slots=True)
class RouteStats:
    """Everything that was found."""

    load: LoadReport
    report: dict[str, Any]
    """Plain values; what the reports are made of."""
    tokens_per_s: float
    """Of the pass over the text alone."""
    files: list[Path]

    def to_json(self) -> dict[str, Any]:
        """Without the text view, which is for pages."""
        content = {key: value for key, value in self.report.items() if key != "text"}
        return content | {"tokens_per_s": self.tokens_per_s, "files": [str(path) for path in self.files]}


def route_stats(path: Path, options: StatsOptions, listener: Listener, out: Path | None = None) -> RouteStats:
    """Looks at the routing of a run, a checkpoint, or a Hugging Face folder, and writes a report.

    Args:
        path: the folder.
        options: what to look at.
        listener: is told of stages and progress.
        out: the folder of the report; see stats_target.

    Raises:
        MoecliError: anything that the user can put right. Nothing is written then.
    """
    target = stats_target(path, out)
    stats = look_at_routing(path, options, listener)
    listener(Stage("drawing"))
    return replace(stats, files=write_stats(stats.report, target))


def look_at_routing(path: Path, options: StatsOptions, listener: Listener) -> RouteStats:
    """Everything about the routing of a run, a checkpoint, or a Hugging Face folder. Writes nothing.

    Raises:
        MoecliError: anything that the user can put right.
    """
    listener(Stage("reading the model and the text"))
    subject = open_subject(path, options.text)
    check_labels(subject, options.by)
    if options.over_training and subject.run is None:
        raise RunError("a Hugging Face folder has one checkpoint", where="--over-training", next_step="leave it out")
    listener(Stage("running the text through the model"))
    started = time.perf_counter()
    evaluation, load, sample = _collect(subject, options, listener)
    tokens_per_s = load.tokens / (time.perf_counter() - started)
    kinds = tuple(dict.fromkeys(options.by or (*subject.tokens.labels, POSITION))) if not options.load_alone else ()
    special = _specialisation(sample, kinds, options, listener)
    report = {
        "checkpoint": str(subject.checkpoint),
        "source": "moecli" if subject.run else "huggingface",
        "model_type": subject.model_type,
        "corpus": subject.corpus,
        "split": subject.split,
        "loss": evaluation.loss,
        "perplexity": evaluation.perplexity,
        "notes": [*subject.notes, *stats_notes(sample, special, kinds, load)],
        "model_notes": list(subject.notes),
        **load.to_json(),
        "sample": {"tokens": len(sample.ids_N), "documents": sample.num_documents, "of_tokens": sample.num_tokens_seen},
        "specialisation": [asdict(label) for label in special.labels],
        "vocabulary": [name_tokens(asdict(layer), subject.tokenizer) for layer in special.vocabulary],
        **_structure(sample, options, listener),
        **_over_training(subject, sample, load, options, listener),
        "ablation": _ablation(subject, load, options, listener) if options.ablate else None,
        "text": text_view(sample, subject.tokenizer),
    }
    return RouteStats(load, finite(report), tokens_per_s, files=[])


def _collect(subject: RoutingSubject, options: StatsOptions, listener: Listener) -> tuple[Evaluation, LoadReport, RoutingSample]:
    """One pass over the text."""
    collector = LoadCollector()
    max_tokens = max(PIECE_TOKENS, options.sample_tokens)
    sampler = SampleCollector(max_tokens, subject.tokenizer.end_of_text_id, subject.tokens.label_names)
    done, total = 0, len(subject.tokens.ids) - 1

    def observe(batch: Batch, records: tuple[RoutingRecord | None, ...]) -> None:
        nonlocal done
        collector.add(records)
        sampler.add(batch, records)
        done += batch.ids_BS.numel()
        listener(Progress(done, total, "tokens"))

    evaluation = evaluate(subject.model, subject.make_batches(), subject.tokens.num_bytes, subject.precision, observe)
    return evaluation, collector.report(), sampler.sample()


def _specialisation(sample: RoutingSample, kinds: Sequence[str], options: StatsOptions, listener: Listener) -> Specialisations:
    if options.load_alone:
        return Specialisations([], [])
    listener(Stage(f"looking for specialisation: exchanging {sample.num_documents} documents {options.num_shuffles} times"))
    return specialise(sample, kinds, min_count=options.min_count, num_shuffles=options.num_shuffles)


def _structure(sample: RoutingSample, options: StatsOptions, listener: Listener) -> dict[str, Any]:
    if options.load_alone:
        return {"coactivation": [], "consistency": [], "paths": None}
    listener(Stage("looking for structure: co-activation, consecutive tokens, paths"))
    found = paths(sample)
    return {
        "coactivation": [asdict(layer) for layer in coactivation(sample)],
        "consistency": [asdict(layer) for layer in consistency(sample)],
        "paths": None if found is None else asdict(found),
    }


def _over_training(
    subject: RoutingSubject, sample: RoutingSample, load: LoadReport, options: StatsOptions, listener: Listener
) -> dict[str, Any]:
    if subject.run is None:
        return {"training": None, "communication": None, "checkpoints": [], "saturation": []}
    load_curves, communication = training_curves(subject.run)
    if not options.over_training:
        return {"training": load_curves, "communication": communication, "checkpoints": [], "saturation": []}
    last = subject.model
    assert isinstance(last, GPT)
    passes: list[tuple[int, Path, LoadReport, RoutingSample]] = []
    for step, checkpoint in earlier_checkpoints(subject.run, subject.checkpoint):
        listener(Stage(f"the checkpoint of step {step}"))
        device = next(subject.model.parameters()).device
        earlier = subject.with_model(load_earlier(checkpoint, last).to(device), checkpoint)
        _, earlier_load, earlier_sample = _collect(earlier, options, listener)
        passes.append((step, checkpoint, earlier_load, earlier_sample))
    passes.append((step_of(subject.checkpoint) or 0, subject.checkpoint, load, sample))
    return {
        "training": load_curves,
        "communication": communication,
        "checkpoints": [
            {"step": step, "checkpoint": str(checkpoint), "mean": one.mean(), "layers": one.to_json()["layers"]}
            for step, checkpoint, one, _ in passes
        ],
        "saturation": [asdict(layer) for layer in saturation({step: one for step, _, _, one in passes})] if len(passes) > 1 else [],
    }


def _ablation(subject: RoutingSubject, load: LoadReport, options: StatsOptions, listener: Listener) -> dict[str, Any]:
    listener(Stage("switching each expert off in turn"))
    found = ablate(
        subject.model,
        spread_batches(subject.make_batches, options.ablate_tokens),
        subject.precision,
        subject.tokenizer.end_of_text_id,
        lambda done, total: listener(Progress(done, total, "experts")),
    )
    loads = {layer.layer: layer.load for layer in load.layers}
    layers = [{"layer": layer.layer, "load": loads[layer.layer]} | asdict(layer) for layer in found.layers]
    return {"tokens": found.tokens, "loss": found.loss, "layers": layers}
