"""What a GPT costs, counted before it is allocated: parameters, FLOPs, bytes.

Knows the model's structure through a copy on the meta device, so the counts can't drift from the code. Must not know data or training.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from moecli.model.config import GPTConfig
from moecli.model.skeleton import skeleton
from moecli.moe.activations import ACTIVATIONS
from moecli.moe.layers import MLP, DenseMoE, FeedForward, SoftMoE, SparseMoE

FLOAT32_BYTES = 4
ADAMW_STATES = 2
# Of an assignment: its expert, its token and twice the order of the queues, int64 each, and its weight before, in and after that order.
FLOATS_OF_A_PLACE = 4 * 2 + 3


@dataclass(frozen=True, slots=True)
class ModelCost:
    """Exact counts of one model."""

    params_total: int
    """Every parameter; a tied embedding counts once."""
    params_active: int
    """Parameters that one token uses, with input embedding and output layer counted whole, before drops; a soft MoE uses all."""
    params_active_without_embedding: int
    """The same without the input embedding, of which a token only reads one row. Equal to the above where it is tied."""
    params_active_without_embedding_and_head: int
    """The same without the output layer too: what the blocks and the last norm use."""
    forward_flops_per_token: int
    """Multiplications and additions of all matrix products, before drops, attention scores over the full square of seq_len included."""
    forward_passes_ahead: int = 0
    """Further forward passes that a training step takes over its tokens: one where balance is judged over the whole step before it."""

    @property
    def train_flops_per_token(self) -> int:
        """Forward and backward: a matrix product has two in its backward pass. And the passes ahead: with one, 4/3 of that."""
        return (3 + self.forward_passes_ahead) * self.forward_flops_per_token


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes that training needs with AdamW. Activations are those that autograd keeps of one micro-batch, counted in float32."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def model_cost(config: GPTConfig, vocab_size: int, seq_len: int, forward_passes_ahead: int = 0) -> ModelCost:
    """Counts a GPT of this shape, trained with so many forward passes ahead of each step's own. Allocates nothing.

    Raises:
        MachineError: a tensor is too large to be counted.
    """
    model = skeleton(config, vocab_size)
    total = _num_params(model)
    feed_forwards = model.feed_forwards()
    feed_forward_params = sum(_num_params(ffn) for ffn in feed_forwards)
    active = total - feed_forward_params + sum(ffn.num_active_params for ffn in feed_forwards)
    embedding = 0 if config.tie_embeddings else model.embedding.weight.numel()
    vectors = sum(parameter.numel() for name, parameter in model.named_parameters() if parameter.ndim == 1 and ".ffn." not in name)
    # All that is left beside the feed-forward blocks multiplies, but for norms and biases; a tied embedding is used as a matrix once.
    matmul_params = total - feed_forward_params - embedding - vectors
    assert config.head_dim is not None
    attention = config.num_layers * 4 * seq_len * config.num_heads * config.head_dim
    return ModelCost(
        params_total=total,
        params_active=active,
        params_active_without_embedding=active - embedding,
        params_active_without_embedding_and_head=active - embedding - vocab_size * config.d_model,
        forward_flops_per_token=round(2 * matmul_params + attention + sum(ffn.forward_flops_per_token(seq_len) for ffn in feed_forwards)),
        forward_passes_ahead=forward_passes_ahead,
    )


def training_memory(
    config: GPTConfig, vocab_size: int, seq_len: int, micro_batch_size: int, *, recompute_activations: bool = False
) -> TrainingMemory:
    """Bytes for training a GPT of this shape on micro-batches of so many sequences. Allocates nothing."""
    model = skeleton(config, vocab_size)
    total = _num_params(model)
    blocks = [_block_floats(ffn, config, seq_len) for ffn in model.feed_forwards()]
    # The final norm keeps two rows, cross-entropy the log-softmax of the logits.
    head = 2 * config.d_model + vocab_size
    per_token = sum(blocks) + head
    if recompute_activations:  # the input of each block, and what of a block is computed again when the head's are no longer needed
        records = sum(_record_floats(ffn) for ffn in model.feed_forwards())
        per_token = config.d_model * len(blocks) + records + max(*blocks, head)
    return TrainingMemory(
        weights=FLOAT32_BYTES * total,
        gradients=FLOAT32_BYTES * total,
        optimizer=FLOAT32_BYTES * ADAMW_STATES * total,
        activations=round(FLOAT32_BYTES * micro_batch_size * seq_len * per_token),
    )


def _block_floats(ffn: FeedForward, config: GPTConfig, seq_len: int) -> float:
    """Numbers that autograd keeps per token and block: what the modules save, read off their code; a test measures it."""
    assert config.head_dim is not None and config.num_kv_heads is not None
    norms = 2 * 2 * config.d_model
    query_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = 2 * query_width + 2 * kv_width
    if config.qk_norm != "none":
        attention += query_width + kv_width
    return norms + attention + _feed_forward_floats(ffn, config, seq_len)


def _feed_forward_floats(ffn: FeedForward, config: GPTConfig, seq_len: int) -> float:
    activation = ACTIVATIONS[config.activation]
    if isinstance(ffn, MLP):
        return _hidden_floats(ffn.out_proj.in_features, activation.is_gated)
    assert isinstance(ffn, DenseMoE | SparseMoE | SoftMoE)
    num_experts, d_model, d_expert = ffn.experts.out_proj.shape
    hidden = _hidden_floats(d_expert, activation.is_gated)
    if isinstance(ffn, DenseMoE):
        return num_experts * (hidden + d_expert)
    if isinstance(ffn, SoftMoE):
        return ffn.mixer.kept_floats_per_token + ffn.mixer.mixtures_per_token(seq_len) * (2 * d_model + hidden)
    # Each assignment keeps its expert's input projection alone (moe/blocked_experts.py).
    floats = ffn.router.assignments_per_token * activation.in_width(d_expert) + _record_floats(ffn)
    return floats if ffn.shared is None else floats + _feed_forward_floats(ffn.shared, config, seq_len) + d_model


def _record_floats(ffn: FeedForward) -> float:
    """What a sparse layer's record holds for the router losses: per token what its router keeps, per assignment its place."""
    if not isinstance(ffn, SparseMoE):
        return 0
    return ffn.router.kept_floats_per_expert * ffn.experts.num_experts + ffn.router.assignments_per_token * FLOATS_OF_A_PLACE


def _hidden_floats(hidden_width: int, is_gated: bool) -> int:
    """The input projection's output (twice as wide with a gate), SiLU(gate) if there is one, and the hidden state."""
    return 4 * hidden_width if is_gated else 2 * hidden_width


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
