"""Generation speed of an MoE beside its dense twins, and what a token costs early and late in a text.

    python -m benchmarks.decode                       # recipes/decode.yaml, 5 rounds: about 4 minutes on one CPU core, 5 GB
    python -m benchmarks.decode --recipe quickstart --rounds 21

Knows models with fresh weights: which experts are chosen depends on the weights, but not what that costs. Prints Markdown tables; the
figures are medians of rounds in which the models take turns, so that ratios hold on a machine that others use too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from moecli.evaluation.decode_speed import DecodeSubject, decode_speeds
from moecli.model.accounting import model_cost
from moecli.model.config import GPTConfig
from moecli.model.dense_twin import dense_twin
from moecli.model.generate import CachedDecoding
from moecli.model.init import build_gpt
from moecli.recipe.load import load_recipe
from moecli.workflows.plan import plan_training

PROMPT_TOKENS, NEW_TOKENS = 16, 32
BATCH_SIZES = (1, 8)
POSITIONS = (16, 1000)
# Of the table of positions.
STEPS = 40


def arms(config: GPTConfig, vocab_size: int, seq_len: int) -> dict[str, GPTConfig]:
    """The MoE, and the dense models of as many active and as many total parameters."""
    return {
        "moe": config,
        "active twin": dense_twin(config, vocab_size, seq_len, "active").config,
        "total twin": dense_twin(config, vocab_size, seq_len, "total").config,
    }


def speed_table(configs: dict[str, GPTConfig], subjects: list[DecodeSubject], rounds: int) -> list[str]:
    """Tokens per second of each arm at each batch size, and as a share of the first arm's."""
    speeds = {
        batch_size: [
            rate.median
            for rate in decode_speeds(subjects, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS, batch_size=batch_size, rounds=rounds)
        ]
        for batch_size in BATCH_SIZES
    }
    heads = ["arm", "active", "total", *(f"tokens/s, batch {size} (moe / this)" for size in BATCH_SIZES)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for index, (name, config) in enumerate(configs.items()):
        cost = model_cost(config, subjects[index].model.vocab_size, seq_len=1)
        cells = [f"{speeds[size][index]:,.1f} ({speeds[size][0] / speeds[size][index]:.2f})" for size in BATCH_SIZES]
        lines.append(f"| {' | '.join([name, f'{cost.params_active:,}', f'{cost.params_total:,}', *cells])} |")
    return lines


def position_table(subject: DecodeSubject, steps: int) -> list[str]:
    """Seconds of a token at each position, and of all layers' attention over the cached keys alone. The positions take turns."""
    config = subject.model.config
    assert config.num_kv_heads is not None and config.head_dim is not None
    queries_per_key = config.num_heads // config.num_kv_heads
    measured: dict[int, tuple[list[float], list[float]]] = {position: ([], []) for position in POSITIONS}
    decodings = {position: CachedDecoding(subject.model, 1, position + steps + 1, subject.precision) for position in POSITIONS}
    for position, decoding in decodings.items():
        decoding.begin([torch.randint(subject.model.vocab_size, (position,)).tolist()])
    for number in range(steps + 1):
        for position, decoding in decodings.items():
            keys_BMLK = torch.randn(1, config.num_kv_heads, position, config.head_dim)
            q_BMGK = torch.randn(1, config.num_kv_heads, queries_per_key, config.head_dim)
            step = seconds(partial(decoding.step, torch.tensor([7])))
            attention = seconds(partial(F.scaled_dot_product_attention, q_BMGK, keys_BMLK, keys_BMLK))
            if number > 0:
                measured[position][0].append(step)
                measured[position][1].append(config.num_layers * attention)
    lines = ["| position | ms per token | of which attention over the cache |", "|---|---|---|"]
    for position in POSITIONS:
        step, attention = (1e3 * statistics.median(values) for values in measured[position])
        lines.append(f"| {position:,} | {step:.2f} | {attention:.2f} |")
    return lines


@torch.inference_mode()
def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="decode")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe).recipe
    vocab_size = plan_training(recipe).vocab_size
    configs = arms(recipe.model, vocab_size, recipe.data.seq_len)
    ids_BS: Tensor = torch.randint(vocab_size, (max(BATCH_SIZES), PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    subjects = [DecodeSubject(build_gpt(config, vocab_size, seed=0), ids_BS, recipe.training.precision) for config in configs.values()]
    print("\n".join(speed_table(configs, subjects, arguments.rounds)))
    print()
    print("\n".join(position_table(subjects[0], STEPS)))


if __name__ == "__main__":
    main()
