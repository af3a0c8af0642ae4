"""Into a Hugging Face folder: from a run of moecli, or from a folder of another class.

Knows run folders and what a folder of Hugging Face needs beside tensors. Must not know how a class names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from moecli.convert.features import left_behind
from moecli.convert.formats import FORMATS, Format, ModelFacts, pick_format
from moecli.convert.hf_folder import (
    GENERATION_FILE,
    SENTENCEPIECE_FILE,
    TOKENIZER_FILES,
    config_files,
    own_files,
    tensors_of,
    tokenizer_files,
)
from moecli.convert.model_card import CardFacts, model_card
from moecli.convert.rules import Made, pieces_of
from moecli.convert.tensor_files import Shard, dtype_of, num_bytes, plan_shards, write_shards
from moecli.convert.verify import Verification
from moecli.model.accounting import ModelCost, model_cost
from moecli.model.checkpoint import load_model
from moecli.model.generate import evaluating
from moecli.model.gpt import GPT
from moecli.recipe.load import dump_recipe
from moecli.workflows.convert_card import data_of, measured, proof_sentences
from moecli.workflows.convert_proof import proof_ids, prove
from moecli.workflows.convert_request import SHARD_BYTES, Conversion, ConversionPlan, ConvertRequest, PlannedTensor
from moecli.workflows.events import Listener, Progress, Stage
from moecli.workflows.export_source import ExportSource, opened_source
from moecli.workflows.run_dir import atomic_folder

CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class _Job:
    """A source, and what is to be made of it."""

    request: ConvertRequest
    source: ExportSource
    format: Format
    shards: list[Shard]
    cost: ModelCost

    @property
    def facts(self) -> ModelFacts:
        source, dtype = self.source, self.request.dtype or "float32"
        if source.run is None:
            end, begin, padding = (source.special_ids.get(key) for key in ("eos_token_id", "bos_token_id", "pad_token_id"))
            return ModelFacts(source.vocab_size, source.max_seq_len, end, dtype, begin, padding)
        assert source.tokenizer is not None
        return ModelFacts(source.vocab_size, source.max_seq_len, source.tokenizer.end_of_text_id, dtype)

    @property
    def tensors(self) -> list[tuple[Made, Shard]]:
        return [(made, shard) for shard in self.shards for made in shard.tensors]

    def left_behind(self) -> list[str]:
        """What of the source the folder has no place for."""
        is_sentencepiece_lost = self.source.run is None and (self.source.checkpoint / SENTENCEPIECE_FILE).is_file()
        note = f"{SENTENCEPIECE_FILE} is left behind: copy it if a reader of this folder needs it"
        return left_behind(self.source.config) + ([note] if is_sentencepiece_lost else [])

    def text_files(self) -> dict[str, str]:
        """All but the weights and the card, by name."""
        source = self.source
        files = config_files(self.format, source.config, self.facts)
        if source.run is None:
            return files | own_files(source.checkpoint, (*TOKENIZER_FILES, GENERATION_FILE))
        assert source.tokenizer is not None
        return files | tokenizer_files(source.tokenizer, source.max_seq_len)


def export_checkpoint(request: ConvertRequest, listener: Listener) -> Conversion:
    """Writes the folder, verifies it, and only then gives it its name."""
    wants_proof = request.wants_proof()
    with _opened(request, with_weights=True) as job, ExitStack() as stack:
        if wants_proof:
            _prove_source(job.source, listener)
        folder = stack.enter_context(atomic_folder(request.target))
        listener(Stage(f"writing {job.format.architecture}"))
        done = 0
        for shard in write_shards(job.shards, folder, request.torch_dtype):
            done += len(shard.tensors)
            listener(Progress(done, len(job.tensors), "tensors"))
        for name, text in job.text_files().items():
            (folder / name).write_text(text, encoding="utf-8")
        if wants_proof:
            listener(Stage("comparing with transformers"))
        proof = _prove(job, folder) if wants_proof else None
        (folder / CARD_FILE).write_text(_card(job, proof), encoding="utf-8")
        names = sorted(path.name for path in folder.iterdir())
    return Conversion(
        source=request.source,
        target=request.target,
        format=job.format.model_type,
        verification=proof,
        params_total=job.cost.params_total,
        params_active=job.cost.params_active,
        files=[request.target / name for name in names],
        notes=[*job.left_behind(), *request.proof_notes(proof)],
    )


def plan_export(request: ConvertRequest) -> ConversionPlan:
    """What `export_checkpoint` would write."""
    dtype = request.torch_dtype
    with _opened(request, with_weights=False) as job:
        tensors = [
            PlannedTensor(made.name, made.shape, str(dtype_of(made, dtype)).removeprefix("torch."), shard.file, num_bytes(made, dtype))
            for made, shard in job.tensors
        ]
        index = ["model.safetensors.index.json"] if len(job.shards) > 1 else []
        files = [*(shard.file for shard in job.shards), *index, *job.text_files(), CARD_FILE]
        return ConversionPlan(
            source=request.source,
            target=request.target,
            format=job.format.model_type,
            tensors=tensors,
            files=sorted(files),
            params_total=job.cost.params_total,
            params_active=job.cost.params_active,
            problems={name: problems for name, fmt in FORMATS.items() if (problems := fmt.problems(job.source.config))},
            notes=job.left_behind(),
        )


@contextmanager
def _opened(request: ConvertRequest, *, with_weights: bool) -> Iterator[_Job]:
    """The source, and the tensors that would be written. Without weights, what their headers say is enough."""
    request.check_makes_no_run()
    with opened_source(request.source, with_weights=with_weights) as source:
        fmt = pick_format(request.to, source.config, str(request.source))
        tensors = tensors_of(fmt, source.config, source.vocab_size, source.read)
        shards = plan_shards(tensors, request.torch_dtype, request.max_shard_bytes or SHARD_BYTES)
        cost = model_cost(source.config, source.vocab_size, source.max_seq_len)
        yield _Job(request, source, fmt, shards, cost)


def _ids(source: ExportSource) -> list[Tensor]:
    return proof_ids(source.vocab_size, source.max_seq_len, source.tokenizer)


def _prove_source(source: ExportSource, listener: Listener) -> None:
    """Where the source is another's, that it was read as what transformers computes; else the target could be wrong in the same way."""
    if source.run is None:
        assert source.model is not None
        listener(Stage("comparing the source with transformers"))
        prove(source.checkpoint, source.model, _ids(source))


@torch.inference_mode()
def _prove(job: _Job, folder: Path) -> Verification:
    source = job.source
    model, batches = load_model(source.checkpoint) if source.model is None else source.model, _ids(source)
    if job.request.torch_dtype == torch.float32:
        return prove(folder, model, batches)
    with evaluating(model):
        before = [model(ids_BS)[0] for ids_BS in batches]
        _round(model, job)
        moved = max((model(ids_BS)[0] - logits_BSV).abs().max().item() for ids_BS, logits_BSV in zip(batches, before, strict=True))
    return replace(prove(folder, model, batches), rounding_diff=moved)


@torch.no_grad()
def _round(model: GPT, job: _Job) -> None:
    """Gives the model the numbers that were written, so that what is compared is the conversion and not the rounding."""
    dtype = job.request.torch_dtype
    weights = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    kept = {piece.ours for piece in pieces_of(job.format.rules_of(model.config), shapes) if piece.keeps_float32}
    for name, tensor in weights.items():
        if name not in kept:
            tensor.copy_(tensor.to(dtype))


def _card(job: _Job, proof: Verification | None) -> str:
    source, request = job.source, job.request
    dtype = f" --dtype {request.dtype}" if request.dtype else ""
    return model_card(
        CardFacts(
            name=request.target.name if source.recipe is None else source.recipe.name,
            architecture=job.format.architecture,
            params_total=job.cost.params_total,
            params_active=job.cost.params_active,
            dtype=job.facts.dtype,
            command=f"moecli convert RUN {request.target.name} --to {job.format.model_type}{dtype}",
            recipe=None if source.recipe is None else dump_recipe(source.recipe),
            data=data_of(source.recipe),
            results=measured(source.run, source.checkpoint),
            differences=left_behind(source.config),
            proof=None if proof is None else proof_sentences(proof),
        )
    )
