"""Generation speed beside that of transformers, with the same weights: our model is exported, and loaded as its own class there.

    python -m benchmarks decode-transformers                        # recipes/decode.yaml: 2 minutes on 2 CPU cores, 6 GB, 1.7 GB of disk
    python -m benchmarks decode-transformers --recipe quickstart --compile

Knows models with fresh weights. Both take the most probable token, one sequence at a time, with a cache; the seconds of the prompt are
taken off. They take turns; the ratio is the median over rounds of the ratio in the same round. The tokens have to be the same. A
matrix-vector product with as many weights as a token uses, and their sum, are what reading them takes: with plain products, and at least.
transformers runs operation by operation, as its `generate` does unless told otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.rounds import milliseconds, number_of_rounds, ratios, spread, take_turns
from moecli.convert.formats import FORMATS
from moecli.convert.formats.base import ModelFacts
from moecli.convert.hf_folder import config_files, tensors_of
from moecli.convert.tensor_files import plan_shards, write_shards
from moecli.model.accounting import model_cost
from moecli.model.compiled_decoding import CompiledDecoding
from moecli.model.generate import CachedDecoding, Sampling
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.recipe.load import load_recipe
from moecli.workflows.plan import plan_training

PROMPT_TOKENS, NEW_TOKENS = 16, 32
ROOM = PROMPT_TOKENS + NEW_TOKENS + 1


def exported(model: GPT, folder: Path) -> Any:
    """The model as the first class of transformers that can hold it."""
    from transformers import AutoModelForCausalLM

    fmt = next(fmt for fmt in FORMATS.values() if not fmt.problems(model.config))
    weights = model.state_dict()
    tensors = tensors_of(fmt, model.config, model.vocab_size, weights.__getitem__)
    for _ in write_shards(plan_shards(tensors, torch.float32, 2**33), folder, torch.float32):
        pass
    facts = ModelFacts(model.vocab_size, PROMPT_TOKENS + NEW_TOKENS + 1, 0, "float32")
    for name, text in config_files(fmt, model.config, facts).items():
        (folder / name).write_text(text, encoding="utf-8")
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32).eval()


def our_tokens(decoding: CachedDecoding, ids_BS: Tensor) -> tuple[list[int], float]:
    """The tokens after the prompt, and the seconds of all but the first."""
    greedy, generator = Sampling(temperature=0), torch.Generator()
    ids_B = greedy.next_ids(decoding.begin(ids_BS.tolist()), generator)
    tokens, started = [int(ids_B)], time.perf_counter()
    for _ in range(NEW_TOKENS):
        ids_B = greedy.next_ids(decoding.step(ids_B), generator)
        tokens.append(int(ids_B))
    return tokens, time.perf_counter() - started


def their_tokens(model: Any, ids_BS: Tensor) -> tuple[list[int], float]:
    """The same, from `generate`: with all tokens, less with one."""

    def generate(new_tokens: int) -> tuple[Tensor, float]:
        started = time.perf_counter()
        with torch.inference_mode():
            ids = model.generate(ids_BS, min_new_tokens=new_tokens, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
        return ids[0, PROMPT_TOKENS:], time.perf_counter() - started

    (tokens, whole), (_, prompt) = generate(NEW_TOKENS + 1), generate(1)
    return tokens.tolist(), whole - prompt


def seconds_of_tokens(tokens_of: Callable[[Any, Tensor], tuple[list[int], float]], model: Any, ids_BS: Tensor) -> float:
    return tokens_of(model, ids_BS)[1]


def seconds_for_all(call: Callable[[], object]) -> float:
    """Of one call for each token."""
    started = time.perf_counter()
    for _ in range(NEW_TOKENS):
        call()
    return time.perf_counter() - started


def compiled(model: GPT) -> CachedDecoding:
    started = time.perf_counter()
    decoding = CompiledDecoding(model, 1, ROOM, "float32")
    print(f"compiled in {time.perf_counter() - started:.1f} s")
    return decoding


def print_table(measured: dict[str, list[float]]) -> None:
    print("| | ms per token | tokens/s over transformers' |\n|---|---|---|")
    for name in measured:
        print(f"| {name} | {milliseconds(measured, name) / NEW_TOKENS:.2f} | {spread(ratios(measured, 'transformers', name))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="decode")
    parser.add_argument("--rounds", type=number_of_rounds, default=9)
    parser.add_argument("--compile", action="store_true", help="our step through torch.compile, too")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe).recipe
    model = build_gpt(recipe.model, plan_training(recipe).vocab_size, seed=0).eval()
    ids_BS = torch.randint(1, model.vocab_size, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    row = torch.ones(model.config.d_model)
    weights = torch.ones(model_cost(model.config, model.vocab_size, seq_len=1).params_active // len(row), len(row))
    ours = {"moecli": CachedDecoding(model, 1, ROOM, "float32")}
    if arguments.compile:
        ours["moecli, compiled"] = compiled(model)
    with tempfile.TemporaryDirectory() as folder:
        theirs = exported(model, Path(folder))
        expected = their_tokens(theirs, ids_BS)[0]
        for name, decoding in ours.items():
            tokens = our_tokens(decoding, ids_BS)[0]
            if tokens != expected:
                raise SystemExit(f"the tokens of {name} differ: {tokens} and {expected}")
        calls = {name: partial(seconds_of_tokens, our_tokens, decoding, ids_BS) for name, decoding in ours.items()}
        calls["transformers"] = partial(seconds_of_tokens, their_tokens, theirs, ids_BS)
        calls["a matrix-vector product with as many weights as are active"] = partial(seconds_for_all, partial(torch.mv, weights, row))
        calls["their sum"] = partial(seconds_for_all, weights.sum)
        measured = take_turns(calls, arguments.rounds)
    print(f"{arguments.recipe} as {type(theirs).__name__}, {torch.get_num_threads()} threads")
    print(f"{arguments.rounds} rounds of {NEW_TOKENS} tokens after {PROMPT_TOKENS}, the same from all\n")
    print_table(measured)


if __name__ == "__main__":
    main()
