"""From a Hugging Face folder to a run folder, which `eval`, `route-stats` and `generate` take, and `train` where a text was given.

Knows what a run folder needs. Must not know how a class names its tensors and keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moecli.convert.hf_folder import (
    GENERATION_FILE,
    SENTENCEPIECE_FILE,
    SPECIAL_IDS,
    TOKENIZER_FILE,
    HuggingFaceShape,
    gpt_shapes,
    load_gpt,
    read_shape,
)
from moecli.convert.start import Changes, change_lines, changed_fields, with_weights_of
from moecli.convert.upcycle_proof import logit_difference
from moecli.data.small_file import read_small
from moecli.data.tokenizer import Tokenizer
from moecli.errors import ConvertError
from moecli.model.accounting import FLOAT32_BYTES, ModelCost, model_cost
from moecli.model.checkpoint import WEIGHTS_FILE
from moecli.model.gpt import GPT
from moecli.recipe.schema import Recipe
from moecli.workflows.convert_proof import proof_ids, prove
from moecli.workflows.convert_request import MOECLI, Conversion, ConversionPlan, ConvertRequest, PlannedTensor
from moecli.workflows.events import Listener, Stage
from moecli.workflows.first_checkpoint import FirstCheckpoint, first_files, write_first_checkpoint
from moecli.workflows.imported_recipe import MAX_SEQ_LEN, fingerprint_of_text, imported_recipe
from moecli.workflows.run_dir import RunDir

# What a conversion back to Hugging Face writes anew, or what means nothing to a model.
REMADE_KEYS = {*SPECIAL_IDS, "transformers_version", "_from_model_config", "use_cache"}
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class _Opened:
    """A checkpoint of which the headers were read, and the run that it will be."""

    shape: HuggingFaceShape
    tokenizer: Tokenizer
    recipe: Recipe
    changed: Changes
    """Of the model, from the checkpoint to the recipe."""
    fingerprint: str | None
    """Of the text to train on; None without one."""
    notes: list[str]

    @property
    def cost(self) -> ModelCost:
        return model_cost(self.shape.config, self.shape.vocab_size, self.shape.max_seq_len)


def import_checkpoint(request: ConvertRequest, listener: Listener) -> Conversion:
    """Reads the folder, verifies what was read, and writes a run whose step 0 holds it."""
    _check_options(request)
    wants_proof = request.wants_proof()
    listener(Stage("reading the checkpoint"))
    opened = _open(request)
    model, _ = load_gpt(request.source)
    proof = None
    if wants_proof:
        listener(Stage("comparing with transformers"))
        proof = prove(request.source, model, proof_ids(opened.shape.vocab_size, opened.shape.max_seq_len, opened.tokenizer))
    listener(Stage("writing the run"))
    conversion = Conversion(
        source=request.source,
        target=request.target,
        format=MOECLI,
        verification=proof,
        params_total=opened.cost.params_total,
        params_active=opened.cost.params_active,
        files=[],
        notes=[*opened.notes, *_measured_changes(model, opened), *request.proof_notes(proof)],
        can_be_trained=opened.fingerprint is not None,
    )
    origin = {key: value for key, value in conversion.to_json().items() if key not in ("target", "files")}
    first = FirstCheckpoint(
        opened.recipe,
        with_weights_of(model, opened.recipe.model),
        opened.tokenizer.json,
        opened.fingerprint,
        origin,
        environment={"imported_from": str(request.source), "imported_class": opened.shape.format.architecture},
    )
    return replace(conversion, files=write_first_checkpoint(request.target, first))


def plan_import(request: ConvertRequest) -> ConversionPlan:
    """What `import_checkpoint` would write."""
    _check_options(request)
    opened, run = _open(request), RunDir(request.target)
    weights = str((run.checkpoint(0) / WEIGHTS_FILE).relative_to(run.path))
    tensors = [
        PlannedTensor(name, shape, "float32", weights, torch.Size(shape).numel() * FLOAT32_BYTES)
        for name, shape in gpt_shapes(opened.shape.config, opened.shape.vocab_size).items()
    ]
    files = [str(path.relative_to(run.path)) for path in first_files(run)]
    notes = [*opened.notes, *change_lines(opened.changed)]
    total, active = opened.cost.params_total, opened.cost.params_active
    return ConversionPlan(request.source, request.target, MOECLI, tensors, files, total, active, problems={}, notes=notes)


def _open(request: ConvertRequest) -> _Opened:
    shape = read_shape(request.source)
    tokenizer = _tokenizer(request.source)
    _fill_up(tokenizer, shape.vocab_size, request.source)
    loaded = imported_recipe(request, shape)
    return _Opened(
        shape=shape,
        tokenizer=tokenizer,
        recipe=loaded.recipe,
        changed=changed_fields(shape.config, loaded.recipe.model),
        fingerprint=fingerprint_of_text(loaded.recipe, tokenizer, request.target),
        notes=[*loaded.notices, *_not_kept(request.source, shape, tokenizer)],
    )


def _measured_changes(model: GPT, opened: _Opened) -> list[str]:
    """What of the model is another than the checkpoint's, which alone is verified, and how far the logits move by it."""
    if not opened.changed:
        return []
    moved = logit_difference(model, with_weights_of(model, opened.recipe.model), opened.recipe.data.seq_len)
    changes = ", ".join(change_lines(opened.changed))
    return [
        f"{changes}: other than the checkpoint, whose logits differ from the run's by {moved.max_abs:.2g} at most, of {moved.largest:.3g}"
    ]


def _check_options(request: ConvertRequest) -> None:
    if request.dtype not in (None, "float32"):
        what = f"{request.dtype} is for Hugging Face; the weights of a run are float32"
        raise ConvertError(what, where="--dtype", next_step="leave --dtype out")
    if request.max_shard_bytes is not None:
        what = "is for Hugging Face; the weights of a run are one file"
        raise ConvertError(what, where="--max-shard-bytes", next_step="leave --max-shard-bytes out")


def _not_kept(folder: Path, shape: HuggingFaceShape, tokenizer: Tokenizer) -> list[str]:
    """What a run has no place for, so that it isn't there when the run is converted back."""
    lost = []
    if shape.max_seq_len > MAX_SEQ_LEN:
        lost.append(f"max_position_embeddings {shape.max_seq_len} (the run's is {MAX_SEQ_LEN})")
    own = {"eos_token_id": tokenizer.end_of_text_id, "pad_token_id": tokenizer.end_of_text_id, "bos_token_id": None}
    for key in SPECIAL_IDS:
        value = shape.content.get(key)
        if value is not None and value not in (own[key], [own[key]]):
            lost.append(f"{key} {value}" + ("" if own[key] is None else f" (the run's is {own[key]})"))
    settings = sorted(key for key, value in _json(folder / GENERATION_FILE).items() if key not in REMADE_KEYS and value)
    if settings:
        lost.append(f"{GENERATION_FILE} ({', '.join(settings)})")
    if (folder / SENTENCEPIECE_FILE).is_file():
        lost.append(f"{SENTENCEPIECE_FILE} (the run reads text by {TOKENIZER_FILE})")
    if (folder / CHAT_TEMPLATE).is_file() or "chat_template" in _json(folder / "tokenizer_config.json"):
        lost.append("the chat template")
    if not lost:
        return []
    return [f"a run doesn't keep: {', '.join(lost)}; a conversion from class to class does"]


def _json(path: Path) -> dict[str, Any]:
    """A file that is only told about; empty where it isn't there or can't be read."""
    try:
        content = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer.

    Raises:
        ConvertError: it has none.
        DataError: it is damaged.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        next_step = "write one with transformers: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        raise ConvertError("there is no such file, and a run reads text with it", where=str(path), next_step=next_step)
    return Tokenizer.load(path)


def _fill_up(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """Gives names to the ids that the model has room for and the tokenizer doesn't use: a run has as many of the one as of the other.

    Raises:
        ConvertError: the tokenizer has more ids than the model.
    """
    tokenizer.fill_up(vocab_size)
    if tokenizer.vocab_size != vocab_size:
        what = f"the tokenizer has {tokenizer.vocab_size:,} token ids, the model {vocab_size:,}"
        next_step = "bring the tokenizer.json that belongs to the model; it needs an end of text such as <|endoftext|> or </s>"
        raise ConvertError(what, where=str(folder / TOKENIZER_FILE), next_step=next_step)
