"""What `route-stats` looks at: a model whose layers route, and a text in its tokens, whether the model is ours or Hugging Face's.

Knows run folders and Hugging Face folders. Must not know what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moecli.analysis.hf_folder import is_huggingface_folder
from moecli.analysis.hf_model import load_huggingface
from moecli.analysis.specialisation import POSITION
from moecli.data.batches import Batch, validation_batches
from moecli.data.corpora.files import FilesCorpus
from moecli.data.prepare import prepare_text
from moecli.data.token_split import TokenSplit
from moecli.data.tokenizer import Tokenizer
from moecli.errors import DataError, RunError
from moecli.evaluation.evaluate import LanguageModel
from moecli.model.device import Precision, pick_device
from moecli.recipe.leak_notes import leak_notes
from moecli.workflows.batches import evaluation_batches
from moecli.workflows.opened_run import OpenedRun, Split, open_run
from moecli.workflows.run_dir import RunDir

# Of a Hugging Face model, whose folder doesn't say how it was evaluated.
DEFAULT_SEQ_LEN, BATCH_SIZE = 512, 8


@dataclass(frozen=True, slots=True)
class TextChoice:
    """Which text to look at."""

    paths: tuple[str, ...] = ()
    """Files instead of the recipe's corpus."""
    text_column: str | None = None
    """Of tables: the column that holds the text. Default: "text"."""
    label_column: str | None = None
    """Of tables: the column that labels a row."""
    split: Split | None = None
    """Which part of the recipe's corpus. Default: validation."""
    seq_len: int | None = None
    """Tokens that go through the model together. Default: the recipe's, or 512."""

    @property
    def corpus(self) -> FilesCorpus | None:
        if not self.paths:
            return None
        return FilesCorpus(paths=list(self.paths), text_column=self.text_column or "text", label_column=self.label_column)

    def check(self) -> None:
        """Raises DataError where one of these has no meaning beside the others."""
        columns = {"--text-column": self.text_column, "--label-column": self.label_column}
        for option, column in columns.items():
            if column is not None and not self.paths:
                raise DataError("names a column of a table, and no table is named", where=option, next_step="name one with --text FILE")
        if self.split is not None and self.paths:
            raise DataError("files are looked at as a whole", where="--split", next_step="leave --split or --text out")


@dataclass(frozen=True, slots=True)
class RoutingSubject:
    """A model and a text."""

    model: LanguageModel
    model_type: str
    """"gpt", or what Hugging Face calls it."""
    checkpoint: Path
    run: RunDir | None
    """None for a Hugging Face folder."""
    tokenizer: Tokenizer
    tokens: TokenSplit
    corpus: str
    split: str
    seq_len: int
    precision: Precision
    make_batches: Callable[[], Iterator[Batch]]
    """The text in consecutive windows, the same at every call."""
    notes: tuple[str, ...]

    def with_model(self, model: LanguageModel, checkpoint: Path) -> RoutingSubject:
        """Another checkpoint of the same run on the same text."""
        return replace(self, model=model, checkpoint=checkpoint)


def open_subject(path: Path, text: TextChoice) -> RoutingSubject:
    """A run, a checkpoint in one, or a Hugging Face folder, with its text.

    Raises:
        RunError: it is none of these, it is damaged, it has no MoE layers, or its tokenizer doesn't fit.
        DataError: the text can't be read, or is shorter than one sequence.
    """
    text.check()
    if is_huggingface_folder(path):
        subject = _huggingface(path, text)
    else:
        subject = _own(open_run(path, text=text.corpus, split=text.split or "validation"), text)
    _check_length(subject)
    if POSITION in subject.tokens.labels:
        what = f"a label column is called {POSITION}, which every text has of its own: the position in the sequence"
        raise DataError(what, where=subject.corpus, next_step="rename the column")
    if text.label_column is not None and not subject.tokens.labels[text.label_column].any():
        raise DataError(
            f"no text has a value in a column '{text.label_column}'",
            where=subject.corpus,
            allowed="a column of jsonl, json, csv, tsv or parquet files",
            next_step="name another column, or leave --label-column out",
        )
    return subject


def _own(opened: OpenedRun, text: TextChoice) -> RoutingSubject:
    recipe = opened.recipe
    if not opened.model.expert_outputs():
        raise RunError(
            f"no layer of this run routes: model.ffn.kind is {recipe.model.ffn.kind}",
            where=str(opened.checkpoint),
            next_step="train with model.ffn.kind sparse, dense or soft, as `moecli train quickstart` does",
        )
    if text.seq_len is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"seq_len": text.seq_len})})
    return RoutingSubject(
        model=opened.model,
        model_type="gpt",
        checkpoint=opened.checkpoint,
        run=opened.run,
        tokenizer=opened.tokenizer,
        tokens=opened.tokens,
        corpus=opened.corpus,
        split=opened.split,
        seq_len=recipe.data.seq_len,
        precision=recipe.training.precision,
        make_batches=lambda: evaluation_batches(recipe, opened.tokens, opened.tokenizer.vocab_size),
        notes=tuple(leak_notes(recipe)),
    )


def _huggingface(folder: Path, text: TextChoice) -> RoutingSubject:
    corpus = text.corpus
    if corpus is None:
        raise DataError(
            "a Hugging Face folder brings no text along", where=str(folder), next_step="name a text with --text FILE, which can be repeated"
        )
    model = load_huggingface(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    if tokenizer.vocab_size > model.vocab_size:
        raise RunError(
            f"the tokenizer has {tokenizer.vocab_size:,} token ids, the model {model.vocab_size:,}",
            where=str(folder),
            next_step="bring the tokenizer.json that belongs to the model; it needs an end of text such as <|endoftext|> or </s>",
        )
    model.to(pick_device("auto"))
    tokens = prepare_text(corpus, tokenizer)
    seq_len = text.seq_len or min(DEFAULT_SEQ_LEN, model.max_seq_len or DEFAULT_SEQ_LEN)
    if model.max_seq_len is not None and not 0 < seq_len <= model.max_seq_len:
        what = f"sequences of {seq_len:,} tokens, but the model has {model.max_seq_len:,} positions"
        raise DataError(what, where=str(folder), next_step="give a smaller --seq-len")
    return RoutingSubject(
        model=model,
        model_type=model.model_type,
        checkpoint=folder,
        run=None,
        tokenizer=tokenizer,
        tokens=tokens,
        corpus=", ".join(text.paths),
        split="all",
        seq_len=seq_len,
        precision="float32",
        make_batches=lambda: validation_batches(tokens, seq_len, BATCH_SIZE),
        notes=(),
    )


def _check_length(subject: RoutingSubject) -> None:
    there = len(subject.tokens.ids) - 1
    if there < subject.seq_len:
        raise DataError(
            f"the text has {there:,} tokens, one sequence {subject.seq_len:,}",
            where=f"{subject.corpus} ({subject.split})",
            next_step="give a longer text, or a smaller --seq-len",
        )


def check_labels(subject: RoutingSubject, wanted: Sequence[str]) -> None:
    """Raises DataError where the text has no label of a name that was asked for."""
    known = [*subject.tokens.labels, POSITION]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise DataError(
            f"the text has no label '{missing[0]}'",
            where=f"{subject.corpus} ({subject.split})",
            allowed=", ".join(known),
            next_step="leave --by out, or name a column of a table with --label-column",
        )
