"""A Hugging Face folder as a GPT, and a GPT as the tensors and small files of one.

Knows what lies in a folder. Must not know how a class names its tensors and keys, nor recipes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moecli.convert.config_reader import CONFIG_FILE, LARGEST_NUMBER, read_config
from moecli.convert.features import moe_layers
from moecli.convert.formats import Format, ModelFacts, format_of_type
from moecli.convert.formats.base import FUSED_EXPERTS, with_fused_experts
from moecli.convert.rules import EXPERT, Made, Read, Rule, Shape, check_shapes, expected_shapes, pieces_of, to_ours, to_theirs
from moecli.convert.tensor_files import TensorFiles, open_tensors
from moecli.data.small_file import read_small
from moecli.data.tokenizer import Tokenizer
from moecli.errors import ConvertError
from moecli.model.accounting import model_cost
from moecli.model.config import GPTConfig
from moecli.model.device import check_memory
from moecli.model.gpt import GPT
from moecli.moe.layers import SparseMoEConfig

TOKENIZER_FILE = "tokenizer.json"
# What of a folder is text and belongs to every class alike.
TOKENIZER_FILES = (
    TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja",
)  # fmt: skip
# The same for readers of SentencePiece, and no text.
SENTENCEPIECE_FILE = "tokenizer.model"
GENERATION_FILE = "generation_config.json"
SPECIAL_IDS = ("eos_token_id", "bos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True)
class HuggingFaceShape:
    """What a folder holds, known from config.json and the headers of its files."""

    format: Format
    config: GPTConfig
    vocab_size: int
    max_seq_len: int
    content: dict[str, Any]
    """Of config.json."""


def gpt_shapes(config: GPTConfig, vocab_size: int) -> dict[str, Shape]:
    """The tensors of a GPT by name. Allocates nothing."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in GPT(config, vocab_size).state_dict().items()}


def read_shape(folder: Path) -> HuggingFaceShape:
    """What a folder holds, once its tensors are known to be those that its config.json describes.

    Raises:
        ConvertError: it is damaged, contradicts itself, or is of a class or shape that moecli can't represent.
    """
    with open_tensors(folder) as tensors:
        return _read_shape(folder, tensors)


def load_gpt(folder: Path) -> tuple[GPT, HuggingFaceShape]:
    """Reads a folder as a GPT on the CPU, float32, in evaluation mode.

    Raises:
        ConvertError: see `read_shape`; or a tensor holds values that are no numbers.
        MachineError: there is too little memory.
    """
    with open_tensors(folder) as tensors:
        shape = _read_shape(folder, tensors)
        num_bytes = model_cost(shape.config, shape.vocab_size, shape.max_seq_len).params_total * torch.float32.itemsize
        check_memory(num_bytes, torch.device("cpu"), "reading the checkpoint", "use a machine with more memory")
        our_shapes = gpt_shapes(shape.config, shape.vocab_size)
        weights = to_ours(pieces_of(_rules(shape.format, shape.config, tensors), our_shapes), our_shapes, tensors.read)
    with torch.device("meta"):
        model = GPT(shape.config, shape.vocab_size)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval(), shape


def tensors_of(fmt: Format, config: GPTConfig, vocab_size: int, read: Read) -> list[Made]:
    """What a folder of this class holds for a GPT, whose tensors `read` gives."""
    return to_theirs(pieces_of(fmt.rules_of(config), gpt_shapes(config, vocab_size)), fmt.fillers(config), read)


def check_own_tensors(tensors: TensorFiles, config: GPTConfig, vocab_size: int) -> None:
    """Raises ConvertError where the tensors of a checkpoint of moecli are not those of its config.json."""
    check_shapes(tensors.shapes, gpt_shapes(config, vocab_size), lambda name: str(tensors.file_of(name)))


def config_files(fmt: Format, config: GPTConfig, facts: ModelFacts) -> dict[str, str]:
    """config.json and generation_config.json by name."""
    ends = facts.end_of_text_id
    padding = ends[0] if isinstance(ends, list) else ends
    generation = {"eos_token_id": ends, "pad_token_id": padding, "do_sample": False}
    return {CONFIG_FILE: json_text(fmt.config_json(config, facts)), GENERATION_FILE: json_text(generation)}


def tokenizer_files(tokenizer: Tokenizer, max_seq_len: int) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json by name, as AutoTokenizer reads them."""
    [end_of_text] = tokenizer.pieces([tokenizer.end_of_text_id])
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_text,
        "pad_token": end_of_text,
        "model_max_length": max_seq_len,
        "clean_up_tokenization_spaces": False,
    }
    return {TOKENIZER_FILE: tokenizer.json, "tokenizer_config.json": json_text(content)}


def own_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Text files of a folder as they are, those that are there.

    Raises:
        ConvertError: one of them is no text, or far too large.
    """
    paths = [folder / name for name in names if (folder / name).is_file()]
    try:
        return {path.name: read_small(path) for path in paths}
    except OSError as error:
        raise ConvertError(f"can't be read: {error.strerror}", where=str(error.filename), next_step="copy the checkpoint again") from error
    except UnicodeDecodeError as error:
        raise ConvertError(f"a tokenizer's file is not UTF-8: {error}", where=str(folder), next_step="copy the checkpoint again") from error


def json_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _rules(fmt: Format, config: GPTConfig, tensors: TensorFiles) -> tuple[Rule, ...]:
    """The table by which these tensors are read."""
    rules = fmt.rules_of(config)
    return with_fused_experts(rules) if any(name.endswith(FUSED_EXPERTS) for name in tensors.shapes) else rules


def _read_shape(folder: Path, tensors: TensorFiles) -> HuggingFaceShape:
    content, where = read_config(folder), str(folder / CONFIG_FILE)
    fmt = format_of_type(content["model_type"], where)
    config = fmt.gpt_config(content, where, tensors.is_zero)
    vocab_size = content.get("vocab_size")
    if type(vocab_size) is not int or not 1 <= vocab_size <= LARGEST_NUMBER:
        raise ConvertError(f"vocab_size is {vocab_size!r}", where=where, allowed=f"a whole number from 1 to {LARGEST_NUMBER:,}")
    _check_special_ids(content, where)
    rules = _rules(fmt, config, tensors)
    _check_counts(config, rules, tensors, where)
    pieces, fillers = pieces_of(rules, gpt_shapes(config, vocab_size)), fmt.fillers(config)
    check_shapes(tensors.shapes, expected_shapes(pieces, fillers), lambda name: str(tensors.file_of(name)))
    for filler in fillers:
        if not tensors.is_zero(filler.theirs):
            what = f"tensor {filler.theirs} is not 0, and moecli has no place for it"
            raise ConvertError(what, where=str(tensors.file_of(filler.theirs)), next_step="give a checkpoint without it")
    max_seq_len = content.get("max_position_embeddings")
    if type(max_seq_len) is not int or max_seq_len < 1:
        raise ConvertError(f"max_position_embeddings is {max_seq_len!r}", where=where, allowed="a whole number of 1 or more")
    return HuggingFaceShape(fmt, config, vocab_size, max_seq_len, content)


def _check_counts(config: GPTConfig, rules: tuple[Rule, ...], tensors: TensorFiles, where: str) -> None:
    """Before anything is made that grows with these numbers: each layer has a tensor of its own, and so has each expert of a layer, where
    they are not stacked."""
    is_stacked = not any(EXPERT in name for rule in rules for name in rule.theirs)
    num_experts = config.ffn.num_experts if isinstance(config.ffn, SparseMoEConfig) and not is_stacked else 0
    if config.num_layers > len(tensors.shapes) or num_experts * len(moe_layers(config)) > len(tensors.shapes):
        what = f"describes {config.num_layers} layers and {num_experts} experts, the files hold {len(tensors.shapes)} tensors"
        raise ConvertError(what, where=where, next_step="give the checkpoint with its own config.json")


def _check_special_ids(content: dict[str, Any], where: str) -> None:
    for key in SPECIAL_IDS:
        value = content.get(key)
        ids = value if isinstance(value, list) else [value]
        if value is not None and (not ids or any(type(number) is not int for number in ids)):
            raise ConvertError(f"{key} is {value!r}", where=where, allowed="a token id, a list of them, or null")
