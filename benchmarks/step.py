"""What a whole training step costs: our GPT with each feed-forward kind, a plain PyTorch GPT, and the same shapes in transformers.

    python -m benchmarks step                               # about 2 minutes on 2 CPU cores
    python -m benchmarks step --rounds 51 --json step.json

Knows fresh models and random ids. All do the same work in a step: gradients to zero, forward, loss (with the router's, where there is
a router), backward, clipping, AdamW (fused). They take turns; a figure is the median over rounds of a ratio in the same round.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_gpt import PlainGPT
from benchmarks.rounds import Seconds, milliseconds, number_of_rounds, ratios, spread, take_turns
from moecli.data.batches import Batch
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.activations import ActivationName
from moecli.moe.layers import FeedForwardConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import TopKConfig
from moecli.training.config import TrainingConfig
from moecli.training.optimizer import build_adamw
from moecli.training.peak_memory import peak_training_memory
from moecli.training.trainer import Trainer

D_MODEL, NUM_LAYERS, NUM_HEADS, VOCAB_SIZE = 128, 4, 4, 65
SEQ_LEN, BATCH_SIZE = 64, 12
RECOMPUTED = "sparse 8 x 256, top-2, recomputed"
PLAIN, MLP, COARSE = "plain GPT", "mlp, gelu", "sparse 8 x 512, top-2, gelu"


@dataclass(frozen=True, slots=True)
class Against:
    """Our arm and the one that it is measured against."""

    ours: str
    other: str


AGAINST = (
    Against(MLP, PLAIN),
    Against(COARSE, MLP),
    Against("mlp, swiglu", "transformers Llama"),
    Against("sparse 8 x 256, top-2", "transformers Mixtral"),
    Against("sparse 64 x 64, top-8", "transformers OLMoE"),
    Against("soft 8 x 256", "mlp, swiglu"),
    Against(RECOMPUTED, RECOMPUTED.removesuffix(", recomputed")),
)


@dataclass
class SameBatch:
    """The batch of every step."""

    batch_of_all: Batch
    seq_len: int = SEQ_LEN

    def batch(self, index: int) -> Batch:
        return self.batch_of_all


def our_trainer(ffn: FeedForwardConfig, activation: ActivationName, batch: Batch, recompute: bool = False) -> Trainer:
    config = GPTConfig(d_model=D_MODEL, num_layers=NUM_LAYERS, num_heads=NUM_HEADS, activation=activation, ffn=ffn)
    training = TrainingConfig(steps=1000, batch_size=BATCH_SIZE, device="cpu", recompute_activations=recompute)
    return Trainer(build_gpt(config, VOCAB_SIZE, seed=0), SameBatch(batch), training)


def seconds_of_ours(trainer: Trainer) -> float:
    started = time.perf_counter()
    trainer.step(100)
    return time.perf_counter() - started


Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def plain_loss(model: nn.Module, ids_BS: Tensor, targets_BS: Tensor) -> Tensor:
    return F.cross_entropy(model(ids_BS).flatten(0, 1), targets_BS.flatten())


def their_loss(model: nn.Module, ids_BS: Tensor, targets_BS: Tensor) -> Tensor:
    """With the balance loss, which transformers adds itself."""
    loss: Tensor = model(input_ids=ids_BS, labels=targets_BS, shift_labels=targets_BS, use_cache=False).loss
    return loss


class OtherTrainer:
    """The step of our trainer, without what is ours."""

    def __init__(self, model: nn.Module, loss: Loss, batch: Batch) -> None:
        self.model, self.loss, self.batch = model.train(), loss, batch
        self.optimizer = build_adamw(model, TrainingConfig().optimizer)

    def seconds(self) -> float:
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.model, self.batch.ids_BS, self.batch.targets_BS).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return time.perf_counter() - started


def transformers_models() -> dict[str, nn.Module]:
    """Llama as our mlp, Mixtral and OLMoE as our sparse arms, with the experts' implementation that each takes by default."""
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM

    shape: dict[str, Any] = {
        "hidden_size": D_MODEL,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_HEADS,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": SEQ_LEN,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    routed = {"output_router_logits": True, "router_aux_loss_coef": 0.01}
    return {
        "transformers Llama": LlamaForCausalLM(LlamaConfig(intermediate_size=512, **shape)),
        "transformers Mixtral": MixtralForCausalLM(
            MixtralConfig(intermediate_size=256, num_local_experts=8, num_experts_per_tok=2, **shape, **routed)
        ),
        "transformers OLMoE": OlmoeForCausalLM(OlmoeConfig(intermediate_size=64, num_experts=64, num_experts_per_tok=8, **shape, **routed)),
    }


def our_arms() -> dict[str, tuple[FeedForwardConfig, ActivationName]]:
    return {
        MLP: (MLPConfig(d_ff=512), "gelu"),
        COARSE: (SparseMoEConfig(num_experts=8, d_expert=512, router=TopKConfig(top_k=2)), "gelu"),
        "mlp, swiglu": (MLPConfig(d_ff=512), "swiglu"),
        "sparse 8 x 256, top-2": (SparseMoEConfig(num_experts=8, d_expert=256, router=TopKConfig(top_k=2)), "swiglu"),
        "sparse 64 x 64, top-8": (SparseMoEConfig(num_experts=64, d_expert=64, router=TopKConfig(top_k=8)), "swiglu"),
        "soft 8 x 256": (SoftMoEConfig(num_experts=8, d_expert=256, mixing="batch"), "swiglu"),
    }


def steps(batch: Batch) -> dict[str, Callable[[], float]]:
    """Every arm's step, which says its seconds."""
    plain = PlainGPT(D_MODEL, NUM_LAYERS, NUM_HEADS, SEQ_LEN, VOCAB_SIZE)
    arms: dict[str, Callable[[], float]] = {PLAIN: OtherTrainer(plain, plain_loss, batch).seconds}
    for name, (ffn, activation) in our_arms().items():
        arms[name] = partial(seconds_of_ours, our_trainer(ffn, activation, batch))
    ffn, activation = our_arms()[RECOMPUTED.removesuffix(", recomputed")]
    arms[RECOMPUTED] = partial(seconds_of_ours, our_trainer(ffn, activation, batch, recompute=True))
    for name, model in transformers_models().items():
        arms[name] = OtherTrainer(model, their_loss, batch).seconds
    return arms


def tables(measured: Seconds) -> list[str]:
    lines = ["| arm | ms per step | over the plain GPT |", "|---|---|---|"]
    lines += [f"| {name} | {milliseconds(measured, name):.1f} | {spread(ratios(measured, name, PLAIN))} |" for name in measured]
    lines += ["", "| ours | against | ratio |", "|---|---|---|"]
    return lines + [f"| {pair.ours} | {pair.other} | {spread(ratios(measured, pair.ours, pair.other))} |" for pair in AGAINST]


def memory_table(batch: Batch) -> list[str]:
    """Peak bytes of a sparse step, over what can't be avoided: its weights, gradients and moments, and the equal mlp's activations."""
    mlp_peak, mlp_states = peak_and_states("mlp, swiglu", batch)
    lines = ["| arm | peak MB | over weights, gradients, moments and the equal mlp's activations |", "|---|---|---|"]
    for name in ("sparse 8 x 256, top-2", "sparse 64 x 64, top-8"):
        for recompute in (False, True):
            peak, states = peak_and_states(name, batch, recompute)
            words = f"{name}{', recomputed' * recompute}"
            lines.append(f"| {words} | {peak / 1e6:.1f} | {peak / (states + mlp_peak - mlp_states):.2f} |")
    return lines


def peak_and_states(name: str, batch: Batch, recompute: bool = False) -> tuple[int, int]:
    """Bytes: of a step at its height, and of weights, gradients and AdamW's two moments."""
    ffn, activation = our_arms()[name]
    peak = peak_training_memory(partial(our_trainer, ffn, activation, batch, recompute), torch.device("cpu"))
    parameters = our_trainer(ffn, activation, batch).model.parameters()
    return peak, 4 * sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=number_of_rounds, default=51)
    parser.add_argument("--json", type=Path, help="write every measured second there too")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ids_BS, targets_BS = torch.randint(VOCAB_SIZE, (2, BATCH_SIZE, SEQ_LEN)).unbind()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32, {arguments.rounds} rounds\n")
    batch = Batch(ids_BS, targets_BS, labels={})
    measured = take_turns(steps(batch), arguments.rounds)
    print("\n".join([*tables(measured), "", *memory_table(batch)]))
    if arguments.json:
        arguments.json.write_text(json.dumps(measured) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
