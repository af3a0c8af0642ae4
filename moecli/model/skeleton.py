"""A GPT without memory: every name and shape, no number.

Knows torch's meta device. Must not know what is counted or compared.
"""

from __future__ import annotations

import torch

from moecli.errors import MachineError
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT


def skeleton(config: GPTConfig, vocab_size: int) -> GPT:
    """The model on the meta device.

    Raises:
        MachineError: it has a tensor whose bytes 64 bits can't count.
    """
    try:
        with torch.device("meta"):
            return GPT(config, vocab_size)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise MachineError("a tensor of this model would have more than 2**63 bytes", next_step="make the model smaller") from error
