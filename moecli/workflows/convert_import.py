"""From a Hugging Face folder to a run folder, which `eval`, `route-stats` and `generate` take.

Knows what a run folder needs. Must not know how a class names its tensors and keys.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from moecli.convert.hf_folder import (
    GENERATION_FILE,
    SPECIAL_IDS,
    TOKENIZER_FILE,
    HuggingFaceShape,
    gpt_shapes,
    load_gpt,
    read_shape,
)
from moecli.data.config import DataConfig
from moecli.data.corpora import FilesCorpus
from moecli.data.tokenizer import Tokenizer
from moecli.data.tokenizer_config import TokenizerFileConfig
from moecli.errors import ConvertError
from moecli.model.accounting import ModelCost, model_cost
from moecli.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE, save_model
from moecli.recipe.load import dump_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.convert_proof import proof_ids, prove
from moecli.workflows.convert_request import MOECLI, UNKNOWN_CORPUS, Conversion, ConversionPlan, ConvertRequest, PlannedTensor
from moecli.workflows.environment import describe_environment
from moecli.workflows.events import Listener, Stage
from moecli.workflows.run_dir import RunDir, atomic_folder, created, point_latest, write_atomically

# A model may take far longer texts than an evaluation should cut a text into.
MAX_SEQ_LEN = 2048
# What a conversion back to Hugging Face writes anew, or what means nothing to a model.
REMADE_KEYS = {*SPECIAL_IDS, "transformers_version", "_from_model_config", "use_cache"}
CHAT_TEMPLATE = "chat_template.jinja"


def import_checkpoint(request: ConvertRequest, listener: Listener) -> Conversion:
    """Reads the folder, verifies what was read, and writes a run whose step 0 holds it."""
    _check_options(request)
    wants_proof = request.wants_proof()
    listener(Stage("reading the checkpoint"))
    tokenizer = _tokenizer(request.source)
    model, shape = load_gpt(request.source)
    _fill_up(tokenizer, shape.vocab_size, request.source)
    recipe = _recipe(request.target, shape)
    proof = None
    if wants_proof:
        listener(Stage("comparing with transformers"))
        proof = prove(request.source, model, proof_ids(shape.vocab_size, shape.max_seq_len, tokenizer))
    listener(Stage("writing the run"))
    with created(request.target) as run:
        write_atomically(run.recipe, dump_recipe(recipe))
        write_atomically(run.tokenizer, tokenizer.json)
        write_atomically(run.environment, json.dumps(_environment(request, shape), indent=2) + "\n")
        with atomic_folder(run.checkpoint(0)) as folder:
            save_model(model, folder)
        point_latest(run, run.checkpoint(0))
    cost = _cost(shape)
    return Conversion(
        source=request.source,
        target=request.target,
        format=MOECLI,
        verification=proof,
        params_total=cost.params_total,
        params_active=cost.params_active,
        files=[request.target / name for name in _files(run)],
        notes=[*_not_kept(request.source, shape, tokenizer), *request.proof_notes(proof)],
    )


def plan_import(request: ConvertRequest) -> ConversionPlan:
    """What `import_checkpoint` would write."""
    _check_options(request)
    shape = read_shape(request.source)
    tokenizer = _tokenizer(request.source)
    _fill_up(tokenizer, shape.vocab_size, request.source)
    run, cost = RunDir(request.target), _cost(shape)
    weights = str(run.checkpoint(0).relative_to(run.path) / WEIGHTS_FILE)
    tensors = [
        PlannedTensor(name, its_shape, "float32", weights, torch.Size(its_shape).numel() * torch.float32.itemsize)
        for name, its_shape in gpt_shapes(shape.config, shape.vocab_size).items()
    ]
    notes = _not_kept(request.source, shape, tokenizer)
    return ConversionPlan(
        request.source, request.target, MOECLI, tensors, _files(run), cost.params_total, cost.params_active, problems={}, notes=notes
    )


def _files(run: RunDir) -> list[str]:
    checkpoint = run.checkpoint(0)
    paths = (run.recipe, run.tokenizer, run.environment, checkpoint / WEIGHTS_FILE, checkpoint / CONFIG_FILE)
    return [str(path.relative_to(run.path)) for path in paths]


def _cost(shape: HuggingFaceShape) -> ModelCost:
    return model_cost(shape.config, shape.vocab_size, shape.max_seq_len)


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
    if (folder / CHAT_TEMPLATE).is_file() or "chat_template" in _json(folder / "tokenizer_config.json"):
        lost.append("the chat template")
    if not lost:
        return []
    return [f"a run doesn't keep: {', '.join(lost)}; a conversion from class to class does"]


def _json(path: Path) -> dict[str, Any]:
    """A file that is only told about; empty where it isn't there or can't be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _recipe(target: Path, shape: HuggingFaceShape) -> Recipe:
    """A recipe of the same shape, which reads no text until it is told one."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", target.absolute().name).lstrip("._-")[:100]
    return Recipe(
        name=name or "imported",
        data=DataConfig(
            corpus=FilesCorpus(paths=[UNKNOWN_CORPUS]),
            tokenizer=TokenizerFileConfig(path=str(RunDir(target).tokenizer.absolute())),
            seq_len=min(shape.max_seq_len, MAX_SEQ_LEN),
        ),
        model=shape.config,
    )


def _environment(request: ConvertRequest, shape: HuggingFaceShape) -> dict[str, object]:
    imported = {"imported_from": str(request.source), "imported_class": shape.format.architecture}
    return describe_environment(torch.device("cpu"), seed=0) | imported | {"data_fingerprint": None}


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
