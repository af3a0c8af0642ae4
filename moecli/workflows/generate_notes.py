"""What a generated text has to be read with: where generation is not what the run was trained and evaluated on.

Knows what a recipe declares. Must not know how notes are shown.
"""

from __future__ import annotations

from moecli.moe.layers import SparseMoEConfig
from moecli.recipe.leak_notes import SEES_FUTURE
from moecli.recipe.schema import Recipe

EVERY_PASS = "every token takes a pass of its own over all before it"
NO_CAPACITY = "the experts' capacity is off while generating, as a token that comes alone finds room at every expert"
MIXES_TEXTS = "this model mixes the sequences of a batch: the texts of one call influence each other"
ALONE = "this model was trained on sequences that mix in a batch; a text that comes alone is new to it"


def generate_notes(recipe: Recipe, num_texts: int, longest: int) -> list[str]:
    """One sentence for each way in which generation departs.

    Args:
        num_texts: written together.
        longest: positions of the longest, prompt included.
    """
    ffn = recipe.model.ffn
    notes = []
    if recipe.leaks_future:
        notes.append(f"{SEES_FUTURE}; {EVERY_PASS}")
    elif isinstance(ffn, SparseMoEConfig) and ffn.capacity is not None:
        if ffn.capacity.eval_factor is not None:
            notes.append(NO_CAPACITY)
        ffn = ffn.model_copy(update={"capacity": None})
    if any(leak.sees == "rows" for leak in ffn.leaks()):
        notes.append(ALONE if recipe.leaks_future or num_texts == 1 else MIXES_TEXTS)
    if longest > recipe.data.seq_len:
        notes.append(f"trained on {recipe.data.seq_len:,} tokens at a time: what comes after so many, prompt included, may be worse")
    return notes
