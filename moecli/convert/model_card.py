"""README.md of a Hugging Face folder: what the model is, what it was trained on, how well it does, how to load it.

Knows Markdown. Must not know recipes: it is given their text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CardFacts:
    name: str
    architecture: str
    params_total: int
    params_active: int
    dtype: str
    command: str
    """That made the folder."""
    recipe: str | None
    """YAML; None where it is not known."""
    data: str | None
    """The corpus in a few words."""
    results: dict[str, float]
    """What was measured after training, by name; empty where nothing was."""
    differences: list[str]
    """What the conversion left out."""
    proof: str | None
    """How it was verified; None where it was not."""


def model_card(facts: CardFacts) -> str:
    """The whole file, with the header that the hub reads."""
    header = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- moecli", "---", ""]
    size = f"{facts.params_total:,} parameters, {facts.params_active:,} of which one token uses"
    body = [f"# {_plain(facts.name)}", "", f"A language model with {size}, as {facts.architecture}, in {facts.dtype}.", ""]
    if facts.data is not None:
        body += ["## Data", "", f"Trained on the {_plain(facts.data)}.", ""]
    if facts.results:
        body += ["## Results", "", "On held-out text, after training:", "", "| measure | value |", "|---|---|"]
        body += [f"| {name} | {value:.6g} |" for name, value in facts.results.items()] + [""]
    body += ["## Use", "", "```python", *_USE, "```", "", "## Conversion", "", *_fenced("sh", _visible(facts.command)), ""]
    body += [facts.proof or "The conversion was not verified.", *(f"\n{sentence}." for sentence in facts.differences), ""]
    if facts.recipe is not None:
        body += ["## Recipe", "", *_fenced("yaml", facts.recipe.rstrip("\n")), ""]
    return "\n".join([*header, *body])


def _plain(text: str) -> str:
    """A text on one line that is shown as it is, neither markup nor HTML."""
    return re.sub(r"[\\`*_\[\]<>|~&#$!]", r"\\\g<0>", _visible(text))


def _visible(text: str) -> str:
    """On one line, with what can't be seen, and halves of characters, written out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _fenced(language: str, text: str) -> list[str]:
    """Code between fences that are longer than any in it."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])
    return [f"{fence}{language}", text, fence]


_USE = (
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "",
    'folder = "."  # this folder',
    "tokenizer = AutoTokenizer.from_pretrained(folder)",
    "model = AutoModelForCausalLM.from_pretrained(folder)",
    'ids = tokenizer("Once", return_tensors="pt")["input_ids"]',
    "print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))",
)
