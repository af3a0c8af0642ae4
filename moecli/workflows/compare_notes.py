"""What a reader of a comparison has to know before the figures: what leaks, and what is not the same for all arms.

Knows the arms. Must not know their results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from moecli.moe.layers import SparseMoEConfig
from moecli.recipe.leak_notes import leak_notes
from moecli.workflows.compare_arms import Arm
from moecli.workflows.eval import unknown_fraction
from moecli.workflows.generate_notes import EVERY_PASS, NO_CAPACITY

Measure = Literal["loss", "bits_per_byte"]

# Seconds are measured, and no two trainings take the same: a match in time that is farther off than this is told.
MOST_OFF_IN_TIME = 0.05


def measure_of(arms: Sequence[Arm]) -> Measure:
    """Nats per token compare models of the same tokens; else there are bits per byte."""
    return "loss" if all(arm.data.fingerprint == arms[0].data.fingerprint for arm in arms) else "bits_per_byte"


def unit_of(arms: Sequence[Arm]) -> str:
    """The unit of the figure by which the arms are compared."""
    if measure_of(arms) == "bits_per_byte":
        return "bits/byte"
    return "nats/masked token" if arms[0].recipe.objective == "masked-lm" else "nats/token"


def comparison_notes(arms: Sequence[Arm], seeds: Sequence[int]) -> list[str]:
    """Leaks first, then what is compared how, then budgets, then generation, then seeds."""
    base, others = arms[0], arms[1:]
    notes = [f"{arm.name}: {note}" for arm in arms for note in leak_notes(arm.recipe)]
    notes += [_data_note(base, arm) for arm in others if arm.data.fingerprint != base.data.fingerprint]
    if measure_of(arms) == "bits_per_byte":
        notes.append(_token_note(arms))
    notes += _unknown_notes(arms)
    notes += [note for arm in others for note in _budget_notes(base, arm)]
    notes += [f"{arm.name}: {note}" for arm in arms for note in _generation_notes(arm)]
    if len(seeds) == 1:
        notes.append("one seed: no interval and no test, so no difference is told apart from chance")
    return notes


def time_match_notes(matches: Sequence[dict[str, Any]], base: str) -> list[str]:
    """Where a twin did not train for the seconds that it was to train for."""
    far = [(match["arm"], match["mismatch"]) for match in matches if match["match"] == "time" and abs(match["mismatch"]) > MOST_OFF_IN_TIME]
    return [f"{arm} was to train for as long as {base}, and took {abs(off):.1%} {'more' if off > 0 else 'less'} time" for arm, off in far]


def _data_note(base: Arm, arm: Arm) -> str:
    """Both have their text from recipes; where the sections that choose it are the same, it is the tokenizer that differs."""
    if _text_settings(base) == _text_settings(arm):
        return (
            f"{arm.name} cuts the text into other tokens than {base.name}: nats per token can't be compared, "
            "so the arms are compared by bits per byte of the same text"
        )
    return (
        f"{arm.name} is trained and judged on other text than {base.name}: nats per token can't be compared, "
        "so the arms are compared by bits per byte, each of its own text, and a difference may come from the text"
    )


def _token_note(arms: Sequence[Arm]) -> str:
    sizes = [f"{arm.data.train.num_bytes / len(arm.data.train.ids):.2f} bytes in {arm.name}" for arm in arms]
    return (
        f"a token of the training text is {', '.join(sizes)}: where curves go over tokens these are not alike, "
        "and between arms of other text or tokens there is no speed-up in tokens, only in time"
    )


def _unknown_notes(arms: Sequence[Arm]) -> list[str]:
    """How much of the validation text the tokenizers can't write; of every arm where tokenizers or texts differ."""
    shares = [unknown_fraction(arm.data.validation, arm.data.tokenizer) for arm in arms]
    if measure_of(arms) == "bits_per_byte":
        told = ", ".join(f"{share:.2%} of {arm.name}" for arm, share in zip(arms, shares, strict=True))
        return [f"validation tokens that are unknown to the tokenizer, so that the loss does not count what they spell: {told}"]
    told = f"{shares[0]:.2%} of the validation tokens are unknown to the tokenizer: the loss does not count what they spell"
    return [told] if shares[0] else []


def _generation_notes(arm: Arm) -> list[str]:
    """Where generation, whose speed is measured, is not what the arm was trained and judged with."""
    ffn = arm.recipe.model.ffn
    if arm.recipe.objective == "masked-lm":
        return []
    if arm.recipe.leaks_future:
        return [f"in generation {EVERY_PASS}"]
    is_off = isinstance(ffn, SparseMoEConfig) and ffn.capacity is not None and ffn.capacity.eval_factor is not None
    return [NO_CAPACITY] if is_off else []


def _text_settings(arm: Arm) -> tuple[object, ...]:
    data = arm.recipe.data
    return data.corpus, data.validation_fraction, data.validation_max_bytes


def _budget_notes(base: Arm, arm: Arm) -> list[str]:
    if arm.match == "time":
        length = "" if arm.tokens is None else f": {arm.tokens:,} tokens, {base.name} {base.tokens:,}"
        return [f"{arm.name} is trained for the same seconds as {base.name}, not for the same tokens{length}"]
    notes = []
    if arm.tokens != base.tokens:
        notes.append(f"{arm.name} is trained on {arm.tokens:,} tokens, {base.name} on {base.tokens:,}")
    if arm.recipe.data.seq_len != base.recipe.data.seq_len:
        lengths = f"{arm.recipe.data.seq_len:,} tokens, {base.name} {base.recipe.data.seq_len:,}"
        notes.append(f"{arm.name} is trained and judged on sequences of {lengths}: the longer ones have more to predict from")
    elif arm.tokens_per_step != base.tokens_per_step:
        sizes = f"{arm.recipe.training.batch_size:,} sequences at a step, {base.name} on {base.recipe.training.batch_size:,}"
        notes.append(f"{arm.name} is trained on {sizes}")
    if arm.recipe.training.device != base.recipe.training.device:
        devices = f"{arm.recipe.training.device}, {base.name} on {base.recipe.training.device}"
        notes.append(f"{arm.name} is trained on device {devices}: their seconds can't be compared")
    return notes
