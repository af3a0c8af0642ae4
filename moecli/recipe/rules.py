"""The rules between the sections of a recipe: what model, objective and training must agree on.

Knows what configs declare about themselves. Must not know any router or feed-forward kind by name.
"""

from __future__ import annotations

from moecli.errors import FieldProblem
from moecli.moe.feed_forward import FeedForwardConfig
from moecli.parallel.config import ParallelConfig
from moecli.training.config import TrainingConfig

FFN = "model.ffn"
# Of a recipe's `training`: what only a router can use, set so that nothing is asked of one.
WITHOUT_ROUTER: dict[str, object] = {
    "bias_update": None,
    "load_loss": 0.0,
    "importance_loss": 0.0,
    "balance_scope": "micro-batch",  # a pass over the whole step to judge its balance would cost time and give nothing
    "freeze": [],
}


def leak_problems(ffn: FeedForwardConfig, *, allow_future_leak: bool) -> list[FieldProblem]:
    """A causal language model whose tokens see their future cheats in training and can't generate: it has to be asked for."""
    if allow_future_leak:
        return []
    return [
        FieldProblem(
            f"{FFN}.{leak.field}",
            f"lets a token see its own future in a causal language model: {leak.why}",
            allowed=f"{leak.instead}; objective: masked-lm; or allow_future_leak: true, and every report says so",
            involves=("objective", "allow_future_leak"),
        )
        for leak in ffn.leaks()
        if leak.sees == "future"
    ]


def balance_problems(ffn: FeedForwardConfig, training: TrainingConfig) -> list[FieldProblem]:
    """Balance rules that the feed-forward block has nothing for."""
    source = f"{FFN}.router" if "router" in type(ffn).model_fields else f"{FFN}.kind"
    problems = []
    if training.bias_update is not None and not ffn.has_selection_bias:
        what = "there is no selection bias to move"
        allowed = f"null, or a router with a bias ({FFN}.router: kind: sigmoid_topk, or kind: topk with selection_bias: true)"
        problems.append(FieldProblem("training.bias_update", what, allowed=allowed, involves=(source,)))
    if training.load_loss and not ffn.estimates_load:
        what = "the router has no noise to estimate its load by, or chooses all experts"
        allowed = f"0, or {FFN}.router.kind noisy_topk (top_k less than num_experts) or vmoe_topk (noise_std above 0)"
        problems.append(FieldProblem("training.load_loss", what, allowed=allowed, involves=(source,)))
    if training.importance_loss and not ffn.learns_routing:
        what = "there is no routing that could learn from it"
        problems.append(FieldProblem("training.importance_loss", what, allowed="0, or a router that learns", involves=(source,)))
    return problems


def freeze_problems(ffn: FeedForwardConfig, training: TrainingConfig) -> list[FieldProblem]:
    """Parts to freeze that the feed-forward block does not have."""
    source = f"{FFN}.router" if "router" in type(ffn).model_fields else f"{FFN}.kind"
    problems = []
    if "experts" in training.freeze and "num_experts" not in type(ffn).model_fields:
        problems.append(FieldProblem("training.freeze", "there are no experts to freeze", allowed="[]", involves=(f"{FFN}.kind",)))
    if {"router", "all-but-router"} & set(training.freeze) and not ffn.mixes_by_weights:
        what = "there is no router with weights of its own"
        problems.append(FieldProblem("training.freeze", what, allowed="experts, where there are any, or []", involves=(source,)))
    return problems


def expert_parallel_problems(ffn: FeedForwardConfig, parallel: ParallelConfig) -> list[FieldProblem]:
    """Experts that can't be shared out evenly, or that no router sends tokens to."""
    if parallel.expert == 1:
        return []
    if not ffn.num_routed_experts:
        what = "tokens travel only to experts that a router chooses"
        return [FieldProblem("parallel.expert", what, allowed="1, or model.ffn.kind sparse", involves=(f"{FFN}.kind",))]
    if ffn.num_routed_experts % parallel.expert:
        what = f"does not divide {FFN}.num_experts ({ffn.num_routed_experts})"
        return [FieldProblem("parallel.expert", what, allowed="a divisor of num_experts", involves=(f"{FFN}.num_experts",))]
    return []


def batch_problems(ffn: FeedForwardConfig, training: TrainingConfig, evaluation_batch_size: int, seq_len: int) -> list[FieldProblem]:
    """Numbers of sequences or tokens that the feed-forward block can't work with, in training and in evaluation."""
    accumulates = training.gradient_accumulation > 1
    sizes = {
        "training.batch_size" + " / gradient_accumulation" * accumulates: training.micro_batch_size,
        "evaluation.batch_size": evaluation_batch_size,
    }
    keys = ("training.batch_size", "training.gradient_accumulation", "evaluation.batch_size", "data.seq_len")
    return [problem.under(FFN, also_involves=keys) for problem in ffn.problems_with_batches(sizes, seq_len)]
