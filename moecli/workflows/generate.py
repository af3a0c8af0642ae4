"""`moecli generate`: text that a trained run goes on with.

Knows runs, tokenizers and when a text is at its end. Must not know how text is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from moecli.data.tokenizer import Tokenizer
from moecli.errors import DataError, RunError
from moecli.model.checkpoint import load_model
from moecli.model.device import check_memory, pick_device
from moecli.model.generate import Sampling, cache_dtype, generate
from moecli.model.gpt import GPT
from moecli.model.kv_cache import KVCache
from moecli.recipe.leak_notes import leaks_json
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.generate_notes import generate_notes
from moecli.workflows.opened_run import check_vocabulary
from moecli.workflows.run_dir import find_checkpoint
from moecli.workflows.stop_text import StopText

Finish = Literal["stop", "end-of-text", "length"]
TextListener = Callable[[int, str], None]
"""Told the number of a text and what it has grown by."""


@dataclass(frozen=True, slots=True)
class Prompt:
    text: str
    """Empty: a new document begins."""
    where: str = "--prompt"
    """Where it is from, for messages."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What is to be written."""

    prompts: Sequence[Prompt] = (Prompt(""),)
    num_samples: int = 1
    """Texts for each prompt."""
    max_tokens: int = 200
    """Most tokens of each text, the prompt not counted."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.8))
    seed: int = 0
    stop: Sequence[str] = ()
    """Texts at which one ends; they are cut off."""


@dataclass(frozen=True, slots=True)
class Generation:
    """The texts that were written: those of the first prompt, then those of the second, and so on."""

    checkpoint: Path
    recipe: Recipe
    prompts: list[str]
    """Of each text."""
    texts: list[str]
    """Without their prompts."""
    finishes: list[Finish]
    tokens: int
    """Of all texts, those that ended one included, prompts not."""
    seconds: float
    """From the prompts to the last token."""
    seed: int
    notes: list[str]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "prompts": self.prompts,
            "text": self.texts,
            "finish": self.finishes,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
            "seed": self.seed,
            "notes": self.notes,
            **leaks_json(self.recipe),
        }


def generate_text(run_path: Path, request: GenerateRequest, listener: TextListener) -> Generation:
    """Goes on with each prompt until the end of the text, a stop text, or `max_tokens`.

    Raises:
        RunError: no run, a damaged one, or one that can't generate.
        DataError: a prompt that the run's tokenizer can't take.
        MachineError: the keys and values of so many positions don't fit into memory.
    """
    run, checkpoint = find_checkpoint(run_path)
    recipe = load_recipe(run.recipe).recipe
    if recipe.objective == "masked-lm":
        what = "trained on masked-lm: it fills in hidden tokens from both sides, and has never gone on with a text"
        raise RunError(what, where=str(run_path), next_step="give a run with objective causal-lm")
    tokenizer = Tokenizer.load(run.tokenizer)
    prompts = [prompt for prompt in request.prompts for _ in range(request.num_samples)]
    prompt_ids = [_encode(prompt, tokenizer) for prompt in prompts]
    model = load_model(checkpoint)
    check_vocabulary(model, recipe, tokenizer, checkpoint)
    _check_cache(model, recipe, prompt_ids, request)
    texts = [_GrowingText(tokenizer, ids, request.stop) for ids in prompt_ids]
    seconds = _write(model.to(pick_device(recipe.training.device)), recipe, texts, request, listener)
    return Generation(
        checkpoint=checkpoint,
        recipe=recipe,
        prompts=[prompt.text for prompt in prompts],
        texts=[text.text for text in texts],
        finishes=[text.finish or "length" for text in texts],
        tokens=sum(text.num_tokens for text in texts),
        seconds=seconds,
        seed=request.seed,
        notes=generate_notes(recipe, len(texts), longest=max(len(text.prompt_ids) + text.num_tokens for text in texts)),
    )


class _GrowingText:
    """One text as its tokens come in."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int], stop: Sequence[str]) -> None:
        self.prompt_ids = prompt_ids
        self.text = ""
        self.num_tokens = 0
        self.finish: Finish | None = None
        """None while it may grow."""
        self._end_of_text_id = tokenizer.end_of_text_id
        self._stop = StopText(stop)
        self._decoder = tokenizer.piece_decoder()
        for number in prompt_ids:  # what a token writes may depend on those before it
            self._decoder.push(number)

    def push(self, number: int) -> str:
        """Takes the next token in; returns what the text has grown by."""
        self.num_tokens += 1
        if number == self._end_of_text_id:
            return self.end("end-of-text")
        grown = self._stop.push(self._decoder.push(number))
        if self._stop.is_reached:
            self.finish = "stop"
        self.text += grown
        return grown

    def end(self, finish: Finish) -> str:
        """Nothing more comes; returns what was held back."""
        self.finish = finish
        rest = self._stop.rest()
        self.text += rest
        return rest


def _write(model: GPT, recipe: Recipe, texts: list[_GrowingText], request: GenerateRequest, listener: TextListener) -> float:
    """Lets the texts grow to their ends; returns the seconds that it took."""
    started = time.perf_counter()
    steps = generate(
        model,
        [text.prompt_ids for text in texts],
        max_tokens=request.max_tokens,
        sampling=request.sampling,
        seed=request.seed,
        precision=recipe.training.precision,
        leaks_future=recipe.leaks_future,
    )
    for ids_B in steps:
        for index, (text, number) in enumerate(zip(texts, ids_B.tolist(), strict=True)):
            if text.finish is None:
                listener(index, text.push(number))
        if all(text.finish for text in texts):
            break
    for index, text in enumerate(texts):
        if text.finish is None:
            listener(index, text.end("length"))
    return time.perf_counter() - started


def _encode(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt; of an empty one, the end of the text before."""
    try:
        prompt.text.encode()
    except UnicodeEncodeError as error:  # what the command line could not read stands in it as half a character
        raise DataError("not UTF-8", where=prompt.where, next_step="convert it to UTF-8") from error
    unknown = tokenizer.unknown_characters(prompt.text)
    if unknown:
        shown = ", ".join(repr(character) for character in unknown[:10])
        what = f"the run's tokenizer has no token for {shown}{' and others' if len(unknown) > 10 else ''}"
        raise DataError(what, where=prompt.where, next_step="leave these characters out: they were not in the text that it was made from")
    return tokenizer.encode(prompt.text) or [tokenizer.end_of_text_id]


def _check_cache(model: GPT, recipe: Recipe, prompt_ids: list[list[int]], request: GenerateRequest) -> None:
    """Raises MachineError where weights and cache are more than the memory."""
    if recipe.leaks_future:
        return
    room = max(map(len, prompt_ids)) + request.max_tokens - 1
    cache_bytes = KVCache.num_bytes(model.config, len(prompt_ids), room, cache_dtype(model, recipe.training.precision))
    weight_bytes = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    check_memory(
        weight_bytes + cache_bytes,
        pick_device(recipe.training.device),
        what=f"generating {len(prompt_ids):,} x {room + 1:,} tokens, prompts included,",
        next_step="lower --max-tokens or --num-samples, or give a shorter prompt",
    )
