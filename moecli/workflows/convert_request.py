"""What a conversion is asked for, and what it tells in the end.

Knows plain values. Must not know how a conversion is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moecli.convert.peer import check_transformers, has_transformers
from moecli.convert.verify import Verification
from moecli.errors import ConvertError

AUTO, MOECLI = "auto", "moecli"
# A checkpoint doesn't say what it was trained on. The recipe of an imported run holds this in place of a file.
UNKNOWN_CORPUS = "the text of an imported model is not known: name one with --text FILE"
SHARD_BYTES = 5_000_000_000
NOT_ASKED_FOR = "not verified: --no-verify was given, so nothing shows that both compute the same"
NOT_VERIFIED = "not verified: the package transformers is not installed (pip install 'moecli[hf]')"


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    source: Path
    """A run folder, a checkpoint in one, or a Hugging Face folder."""
    target: Path
    to: str = AUTO
    """A name in FORMATS, `moecli`, or `auto`."""
    verify: bool | None = None
    """None: where transformers is installed."""
    dtype: str | None = None
    """float32, bfloat16 or float16, of weights for Hugging Face. None: float32."""
    max_shard_bytes: int | None = None
    """Of one file of weights for Hugging Face. None: SHARD_BYTES."""
    recipe: str | None = None
    """Of the run to make, a file or a shipped one's name. None: one of the checkpoint's shape, with `overrides` laid over it."""
    overrides: Sequence[str] = ()

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.dtype or "float32"]

    def check_makes_no_run(self) -> None:
        """Raises ConvertError where a recipe was given for a folder of Hugging Face, which has none."""
        for option, value in (("--recipe", self.recipe), ("--set", self.overrides)):
            if value:
                raise ConvertError("is for a run folder as the result", where=option, next_step=f"leave {option} out, or give --to moecli")

    def wants_proof(self) -> bool:
        """Whether to verify.

        Raises:
            MachineError: it was asked for, and transformers is not installed.
        """
        if self.verify:
            check_transformers()
        return has_transformers() if self.verify is None else self.verify

    def proof_notes(self, proof: Verification | None) -> list[str]:
        """What a conversion's proof doesn't show."""
        if proof is None:
            return [NOT_ASKED_FOR if self.verify is False else NOT_VERIFIED]
        unvisited = proof.num_experts - len(proof.visited)
        if not unvisited:
            return []
        share = f"{unvisited:,} of {proof.num_experts:,} experts (each layer's counted) were chosen by no token of the proof"
        return [f"{share}: their weights went by the same rules, but no logit shows them"]


@dataclass(frozen=True, slots=True)
class Conversion:
    """A finished conversion."""

    source: Path
    target: Path
    format: str
    verification: Verification | None
    """None: it was not asked for, or transformers is not installed."""
    params_total: int
    params_active: int
    files: list[Path]
    notes: list[str]
    can_be_trained: bool = False
    """Whether it is a run with a text to train on."""

    def to_json(self) -> dict[str, Any]:
        proof = self.verification
        return {
            "source": str(self.source),
            "target": str(self.target),
            "format": self.format,
            "verified": proof is not None,
            "max_abs_logit_diff": None if proof is None else proof.max_abs_logit_diff,
            "choices_compared": None if proof is None else proof.choices_compared,
            "experts": None if proof is None else proof.num_experts,
            "experts_visited": None if proof is None else len(proof.visited),
            "rounding_logit_diff": None if proof is None else proof.rounding_diff,
            "params_total": self.params_total,
            "params_active": self.params_active,
            "files": [str(path) for path in self.files],
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    name: str
    shape: Sequence[int]
    dtype: str
    file: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What a conversion would write."""

    source: Path
    target: Path
    format: str
    tensors: list[PlannedTensor]
    files: list[str]
    """Relative to the target."""
    params_total: int
    params_active: int
    problems: dict[str, list[str]]
    """Of each class of Hugging Face that can't represent the model, why; empty for an import."""
    notes: list[str]

    @property
    def num_bytes(self) -> int:
        """Of all weights."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "target": str(self.target),
            "format": self.format,
            "bytes": self.num_bytes,
            "files": self.files,
            "tensors": [
                {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype, "file": tensor.file, "bytes": tensor.num_bytes}
                for tensor in self.tensors
            ],
            "params_total": self.params_total,
            "params_active": self.params_active,
            "problems": self.problems,
            "notes": self.notes,
        }
