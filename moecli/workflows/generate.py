"""`moecli generate`: text that a trained run goes on with.

Knows runs, tokenizers and when a text is at its end. Must not know how text is shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from moecli.data.tokenizer import Tokenizer
from moecli.errors import DataError, RunError
from moecli.model.checkpoint import load_model
from moecli.model.compiled_decoding import CompiledDecoding, rounded_up
from moecli.model.device import check_memory, pick_device
from moecli.model.generate import Decoding, Sampling, cache_dtype, decode, decoding_for, room_for
from moecli.model.gpt import GPT
from moecli.model.kv_cache import KVCache
from moecli.recipe.leak_notes import SEES_FUTURE, leaks_json
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.events import Listener, Progress, Stage
from moecli.workflows.generate_notes import EVERY_PASS, generate_notes
from moecli.workflows.growing_text import Finish, GrowingText
from moecli.workflows.opened_run import check_fits
from moecli.workflows.run_dir import find_checkpoint

TextListener = Callable[[int, str], None]
"""Told the number of a text and what it has grown by."""

COMPILING = Stage("compiling the step of one token")

# While a token is drawn, its logits are there in float64 as they came, sorted, and as probabilities.
DRAW_BYTES_PER_LOGIT = 4 * 8


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
    compiles: bool = False
    """Whether torch.compile makes one program of the step of a token, before the first."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long the texts took."""

    compiling: float | None
    """None where nothing is compiled."""
    prompt: float
    """The pass over the prompts, with the first token of each text."""
    later: float
    """All other tokens."""


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
    seconds: Seconds
    seed: int
    notes: list[str]

    @property
    def tokens_per_s(self) -> float | None:
        """Of the tokens after the pass over the prompts, which gives the first of each text; None where there are no others."""
        later = self.tokens - len(self.texts)
        return later / self.seconds.later if later > 0 else None

    @property
    def is_interrupted(self) -> bool:
        return "interrupted" in self.finishes

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "prompts": self.prompts,
            "text": self.texts,
            "finish": self.finishes,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens_per_s,
            "prompt_seconds": self.seconds.prompt,
            "compile_seconds": self.seconds.compiling,
            "seed": self.seed,
            "notes": self.notes,
            **leaks_json(self.recipe),
        }


def generate_text(
    run_path: Path,
    request: GenerateRequest,
    text_listener: TextListener,
    listener: Listener = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generation:
    """Goes on with each prompt until the end of the text, a stop text, or `max_tokens`.

    Args:
        run_path: a run folder, or a checkpoint folder in one.
        request: what is to be written.
        text_listener: is told what each text grows by.
        listener: is told how long the longest text is.
        should_stop: asked after each token; then all texts end where they are.

    Raises:
        RunError: no run, a damaged one, or one that can't generate, or not by a compiled step.
        DataError: a prompt that the run's tokenizer can't take.
        MachineError: the keys and values of so many positions don't fit into memory, or there is no compiler.
    """
    run, checkpoint = find_checkpoint(run_path)
    recipe = load_recipe(run.recipe).recipe
    _check_recipe(recipe, run_path, request.compiles)
    tokenizer = Tokenizer.load(run.tokenizer)
    distinct = {prompt.text: prompt for prompt in request.prompts}
    ids_of = {text: _encode(prompt, tokenizer) for text, prompt in distinct.items()}
    model = load_model(checkpoint)
    check_fits(model.config, model.vocab_size, recipe, tokenizer, checkpoint)
    _check_memory(model, recipe, max(map(len, ids_of.values())), request)
    prompts = [prompt.text for prompt in request.prompts for _ in range(request.num_samples)]
    texts = [GrowingText(tokenizer, ids_of[prompt], request.stop) for prompt in prompts]
    ids, model = [text.prompt_ids for text in texts], model.to(pick_device(recipe.training.device))
    decoding, compiling = _decoding(model, recipe, len(texts), room_for(ids, request.max_tokens), listener if request.compiles else None)
    listener(Stage(f"writing {len(texts):,} text{'s' * (len(texts) > 1)} of up to {request.max_tokens:,} tokens"))
    steps = decode(decoding, ids, max_tokens=request.max_tokens, sampling=request.sampling, seed=request.seed)
    prompt, later = _write(steps, texts, request.max_tokens, text_listener, listener, should_stop)
    return Generation(
        checkpoint=checkpoint,
        recipe=recipe,
        prompts=prompts,
        texts=[text.text for text in texts],
        finishes=[text.finish or "length" for text in texts],
        tokens=sum(text.num_tokens for text in texts),
        seconds=Seconds(compiling, prompt, later),
        seed=request.seed,
        notes=generate_notes(recipe, len(texts), longest=max(len(text.prompt_ids) + text.num_tokens for text in texts)),
    )


def _check_recipe(recipe: Recipe, run_path: Path, compiles: bool) -> None:
    """Raises RunError where such a run can't generate."""
    if recipe.objective == "masked-lm":
        what = "trained on masked-lm: it fills in hidden tokens from both sides, and has never gone on with a text"
        raise RunError(what, where=str(run_path), next_step="give a run with objective causal-lm")
    if compiles and recipe.leaks_future:
        what = f"{SEES_FUTURE}; {EVERY_PASS}, so there is no step of one size to compile"
        raise RunError(what, where=str(run_path), next_step="leave --compile out")


def _decoding(model: GPT, recipe: Recipe, num_texts: int, room: int, compile_listener: Listener | None) -> tuple[Decoding, float | None]:
    """With the seconds of compiling, if there is somebody to tell of it."""
    if compile_listener is None:
        return decoding_for(model, num_texts, room, recipe.training.precision, recipe.leaks_future), None
    compile_listener(COMPILING)
    begun = time.perf_counter()
    return CompiledDecoding(model, num_texts, room, recipe.training.precision), time.perf_counter() - begun


def _write(
    steps: Iterator[Tensor],
    texts: list[GrowingText],
    max_tokens: int,
    text_listener: TextListener,
    listener: Listener,
    should_stop: Callable[[], bool],
) -> tuple[float, float]:
    """Lets the texts grow to their ends: seconds to the first token of each, and of all later ones."""
    begun = first = time.perf_counter()
    last: Finish = "length"
    unit = "tokens" if len(texts) == 1 else "tokens of the longest text"
    for place, ids_B in enumerate(steps, start=1):
        if place == 1:
            first = time.perf_counter()
        for index, (text, number) in enumerate(zip(texts, ids_B.tolist(), strict=True)):
            if text.finish is None:
                text_listener(index, text.push(number))
        listener(Progress(place, max_tokens, unit))
        if all(text.finish for text in texts):
            break
        if should_stop():
            last = "interrupted"
            break
    for index, text in enumerate(texts):
        if text.finish is None:
            text_listener(index, text.end(last))
    return first - begun, time.perf_counter() - first


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


def _check_memory(model: GPT, recipe: Recipe, longest: int, request: GenerateRequest) -> None:
    """Raises MachineError where weights, cache and logits of so many texts, after a prompt of `longest` ids, are more than the memory."""
    num_texts, room = len(request.prompts) * request.num_samples, longest + request.max_tokens - 1
    weight_bytes = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    cached = rounded_up(room) if request.compiles else room
    cache_bytes = KVCache.num_bytes(model.config, num_texts, cached, cache_dtype(model, recipe.training.precision))
    draw_bytes = num_texts * model.vocab_size * DRAW_BYTES_PER_LOGIT
    check_memory(
        weight_bytes + draw_bytes + (0 if recipe.leaks_future else cache_bytes),
        pick_device(recipe.training.device),
        what=f"generating {num_texts:,} x {room + 1:,} tokens, prompts included,",
        next_step="lower --max-tokens or --num-samples, or give a shorter prompt",
    )
