"""Which commands may end well on a folder that is damaged, and why.

Knows the names of damages and commands. Must not know how they are made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.hostile.matrix import Case, is_needed


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a command may go on."""

    text: str
    damages: str
    """A pattern of the names of damages, all of the name."""
    commands: str = ".*"
    is_certain: bool = True
    """Whether the whole matrix has a case of it; where it doesn't, the reason is gone and has to go."""


NOT_READ = "the command doesn't read it"
REASONS = (
    Reason("its manifest was forged with it, and the new number is as good as the old", r".*: a bit turned, forged"),
    Reason("Hugging Face writes no hashes, and the new number is as good as the old", r"model-.*: a bit turned"),
    Reason("the only number in it is a size that nobody reads", r"model\.safetensors\.index\.json: .* numbers"),
    Reason(
        "it is of no use where no text is written: transformers goes on without it where it can, and a copy is a copy",
        r"(generation|tokenizer)_config\.json: .*",
        ".* Hugging Face",
    ),
    Reason("of its numbers none is used: they describe the machine and the versions", r"environment\.json: .* numbers"),
    Reason("they are told as those of the machine, and are possible ones", r".*/environment\.json: huge numbers", "compare-dense"),
    Reason(
        "a further source's text is compared with that of the first; where it is not known, a note says so",
        r"environment\.json: .*",
        "convert --mix, a further source",
    ),
    Reason(
        "metrics are for curves and for `best`: what is gone or no number is left out, and the training goes on from its checkpoint",
        r"metrics\.jsonl: (missing|a link to itself|empty|.* fractions)",
        r"route-stats.*|train --resume",
    ),
    Reason("a last line without its end is left out: a kill makes such", r"metrics\.jsonl: (cut in half|zeros|deep)"),
    Reason("a curve is made of the numbers, which are possible ones", r"metrics\.jsonl: huge numbers", "route-stats.*"),
    Reason("lines of steps after the checkpoint are cut off", r"metrics\.jsonl: huge numbers", "train --resume"),
    Reason("a result that can't be read is left out of the card", r"result\.json: .*", "convert( --no-verify| --dry-run)?"),
    Reason("its losses are possible ones", r".*/result\.json: huge fractions", "compare-dense"),
    Reason("the training writes its result anew", r"(.*/)?result\.json: .*", "train --resume|compare-dense"),
    Reason(
        "where `latest` leads nowhere the newest checkpoint is taken, and without one the training begins again",
        r"(.*/)?(latest: missing|latest: to (step-99|latest|\.\./\.\./elsewhere|/nowhere)|checkpoints: empty|checkpoints/step-6: missing)",
        "train --resume|compare-dense",
    ),
    Reason("there is no earlier checkpoint, then", r"checkpoints/step-4: missing", "route-stats --over-training"),
    Reason(
        "some classes have such numbers, infinite ones too, and what the model computes with them is what is told",
        r"config\.json: (huge|infinite) fractions",
        "route-stats of Hugging Face",
    ),
    Reason("half a recipe may be a whole one, whose other keys have their defaults", r"(.*/)?recipe\.yaml: cut in half", is_certain=False),
    Reason(
        "a checkpoint may be without a tokenizer",
        r"tokenizer\.json: (missing|a folder|a link to itself|a pipe)",
        "convert from and to Hugging Face",
    ),
    Reason("it is a sound recipe", r"recipe\.yaml: (an empty mapping|of another model)", "train --dry-run|recipes .*"),
    Reason("a recipe is shown and copied as it stands", r"recipe\.yaml: .*", "recipes (show|copy)"),
    Reason(
        "what is not there is trained, or measured, anew",
        r"(report|runs|runs/tiny|runs/.*/seed-0|the run): (missing|empty)",
        "compare-dense",
    ),
    Reason("the report before is replaced, and only its list of files is read", r"report/.*: .* numbers", "compare-dense"),
)


def fine(case: Case) -> str | None:
    """Why a command may end with exit code 0; None: it may not."""
    if not is_needed(case.damage, case.command):
        return NOT_READ
    matching = (
        reason.text for reason in REASONS if re.fullmatch(reason.damages, case.damage) and re.fullmatch(reason.commands, case.command)
    )
    return next(matching, None)
