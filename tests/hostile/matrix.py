"""Commands times damages: what is called on which damaged folder, and what is wrong with how it ends.

Knows the command line and what each command opens. Must not know which ends without an error are fine (fine.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.damage import COMPARED, EARLIER, LATEST, copy_of, damages
from tests.hostile.runs import said

NOTHING = "nothing is damaged"
KINDS = ("sparse", "dense", "comparison", "huggingface")
SPARSE = ("--set", "model.ffn.kind=sparse", "--set", "model.ffn.num_experts=2", "--set", "model.ffn.d_expert=16")
# The damaged folder is called `run`, what a command makes `out`; other names are of sound things beside them.
COMMANDS: dict[str, dict[str, tuple[str, ...]]] = {
    "sparse": {
        "eval": ("eval", "run"),
        "eval --audit": ("eval", "run", "--audit", "--json"),
        "route-stats": ("route-stats", "run", "--out", "out"),
        "route-stats --over-training": ("route-stats", "run", "--over-training", "--out", "out"),
        "route-stats --compare": ("route-stats", "--compare", "sparse", "run", "--out", "out"),
        "generate": ("generate", "run", "--max-tokens", "2"),
        "convert": ("convert", "run", "out"),
        "convert --no-verify": ("convert", "run", "out", "--no-verify"),
        "convert --dry-run": ("convert", "run", "out", "--dry-run"),
        "convert --to moecli": ("convert", "run", "out", "--to", "moecli"),
        "convert --carry-optimizer": ("convert", "run", "out", "--to", "moecli", "--carry-optimizer"),
        "convert --resize": ("convert", "run", "out", "--resize", "prune", "--experts", "2", "--by", "random"),
        "train --resume": ("train", "sparse.yaml", "--out", "run", "--resume", "--set", "training.steps=8"),
        "train --dry-run": ("train", "run/recipe.yaml", "--dry-run"),
        "recipes validate": ("recipes", "validate", "run/recipe.yaml"),
        "recipes show": ("recipes", "show", "run/recipe.yaml"),
        "recipes show --resolved": ("recipes", "show", "run/recipe.yaml", "--resolved"),
        "recipes copy": ("recipes", "copy", "run/recipe.yaml", "out"),
    },
    "dense": {
        "convert --upcycle": ("convert", "run", "out", "--upcycle", "copies", *SPARSE),
        "convert --mix": ("convert", "run", "dense", "out", "--mix", *SPARSE),
        "convert --mix, a further source": ("convert", "dense", "run", "out", "--mix", *SPARSE),
    },
    "comparison": {"compare-dense": ("compare-dense", "sparse.yaml", "--seeds", "1", "--out", "run")},
    "huggingface": {
        "route-stats of Hugging Face": ("route-stats", "run", "--text", "text.txt", "--out", "out"),
        "convert from Hugging Face": ("convert", "run", "out", "--to", "moecli", "--no-verify"),
        "convert from Hugging Face --dry-run": ("convert", "run", "out", "--to", "moecli", "--dry-run"),
        "convert from and to Hugging Face": ("convert", "run", "out", "--to", "mixtral", "--no-verify"),
    },
}
# Of these the folder is not the same afterwards.
WRITING = ("train --resume", "compare-dense")

MODEL = {"the run", "checkpoints", "latest", LATEST, f"{LATEST}/*", "recipe.yaml"}
TEXT = MODEL | {"tokenizer.json", "environment.json"}
EXPORT = MODEL | {"tokenizer.json", "result.json"}
RECIPE = {"the run", "recipe.yaml"}
HUGGINGFACE = {
    *("the run", "config.json", "tokenizer.json", "model.safetensors.index.json"),
    *(f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)),
}
# What a command reads; with /*, the files of a folder.
NEEDS: dict[str, set[str]] = {
    "eval": TEXT,
    "eval --audit": TEXT,
    "route-stats": TEXT | {"metrics.jsonl"},
    "route-stats --over-training": TEXT | {"metrics.jsonl", EARLIER, f"{EARLIER}/*"},
    "route-stats --compare": TEXT | {"metrics.jsonl"},
    "generate": MODEL | {"tokenizer.json"},
    "convert": EXPORT,
    "convert --no-verify": EXPORT,
    "convert --dry-run": EXPORT,
    "convert --to moecli": TEXT,
    "convert --carry-optimizer": TEXT,
    "convert --resize": TEXT,
    "train --resume": MODEL | {"tokenizer.json", "environment.json", "metrics.jsonl", "result.json"},
    "train --dry-run": RECIPE,
    "recipes validate": RECIPE,
    "recipes show": RECIPE,
    "recipes show --resolved": RECIPE,
    "recipes copy": RECIPE,
    "convert --upcycle": TEXT,
    "convert --mix": TEXT,
    "convert --mix, a further source": TEXT,
    "compare-dense": {
        *(f"{COMPARED}/{place}" for place in MODEL | {"environment.json", "metrics.jsonl", "result.json"}),
        *("the run", "time-steps.json", "report", "report/*", "runs", "runs/tiny", COMPARED, "runs/dense-time/seed-0"),
    },
    "route-stats of Hugging Face": HUGGINGFACE | {"generation_config.json"},
    "convert from Hugging Face": HUGGINGFACE,
    "convert from Hugging Face --dry-run": HUGGINGFACE,
    "convert from and to Hugging Face": HUGGINGFACE | {"generation_config.json", "tokenizer_config.json"},
}
# What reads these, beyond holding them against the manifest.
STATE = {"training_state.json": ("train --resume",), "training_state.safetensors": ("train --resume", "convert --carry-optimizer")}


@dataclass(frozen=True, slots=True)
class Case:
    kind: str
    damage: str
    command: str


@dataclass(frozen=True, slots=True)
class End:
    """How a command ended on a damaged folder."""

    case: Case
    code: int
    wrong: str
    """How that must not be, whatever was damaged; empty: it may."""


def is_needed(damage: str, command: str) -> bool:
    """Whether a command reads what is damaged."""
    place = Path(damage.split(":")[0])
    if "forged" in damage and command not in STATE.get(place.name, (command,)):
        return False
    return not NEEDS[command].isdisjoint((str(place), f"{place.parent}/*"))


def cases(kind: str) -> Iterator[Case]:
    """Every damage with every command that reads what is damaged; of the other files one damage shows that it doesn't mind."""
    for damage, _ in damages(Path(kind)):
        for command in COMMANDS[kind]:
            if is_needed(damage, command) or damage.endswith("random bytes"):
                yield Case(kind, damage, command)


def ends(chosen: Iterable[Case]) -> Iterator[End]:
    """Damages a copy for each case, and calls the command."""
    change = {kind: {**dict(damages(Path(kind))), NOTHING: lambda copy: None} for kind in KINDS}
    for case in chosen:
        run = copy_of(Path(case.kind), Path("run"))
        _remove(Path("out"))
        change[case.kind][case.damage](run)
        before = _listing()
        code, message = said(list(COMMANDS[case.kind][case.command]))
        yield End(case, code, _wrong(case, code, " ".join(message.split()), before))


def _wrong(case: Case, code: int, message: str, before: dict[str, tuple[int, int]]) -> str:
    if code not in (0, 1, 2):
        return f"exit code {code}: {message}"
    if "bug in moecli" in message or "Traceback" in message or "out of memory" in message:
        return message
    after = _listing()
    half = [path for path in after.keys() - before.keys() if ".partial" in path or "/." in path.replace("/.lock", "")]
    if half:
        return f"leaves {half}: {message}"
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path) and path != "out"]
    if changed and case.command not in WRITING:
        return f"changes {changed}: {message}"
    if code == 0:
        return ""
    if "out" in after:
        return f"leaves out: {message}"
    place = case.damage.split(":")[0].removeprefix(f"{COMPARED}/")
    return (
        "" if any(name in message for name in (Path(place).name, "run/", "run:", "run is none")) else f"doesn't name the place: {message}"
    )


def _listing() -> dict[str, tuple[int, int]]:
    """Size and time of all that lies in the damaged folder, and of what lies beside it."""
    paths = [*Path("run").rglob("*"), *Path().glob("*"), *Path().glob(".*"), *Path("cache").glob(".*")]
    found = {path: path.lstat() for path in paths}
    return {str(path): (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
