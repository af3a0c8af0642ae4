"""A run folder, damaged in every way that there is, and the commands that are pointed at it.

Knows files. Must not know what is in them, beyond the manifest that a forger would fill in anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from moecli.model.manifest import MANIFEST_FILE, add_to_manifest

OTHER_RECIPE = (
    "name: other\nmodel: {d_model: 24, num_layers: 1, num_heads: 2, ffn: {kind: mlp}}\ndata: {tokenizer: {kind: byte}, seq_len: 8}\n"
)

CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda old: b"",
    "cut in half": lambda old: old[: len(old) // 2],
    "random bytes": lambda old: bytes((number * 197 + 31) % 256 for number in range(400)),
    "zeros": lambda old: bytes(len(old)),
    "a list": lambda old: b"[]\n",
    "a number": lambda old: b"1e400\n",
    "a text": lambda old: b'"text"\n',
    "null": lambda old: b"null\n",
    "an empty mapping": lambda old: b"{}\n",
    "deep": lambda old: b"[" * 200_000,
    "endless header": lambda old: (2**60).to_bytes(8, "little") + old[8:],
    "a pickle": lambda old: b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
}
# Of a file that is JSON. With another number or two, model.safetensors is a checkpoint like any other.
OTHER_VALUES: dict[str, Callable[[bytes], bytes]] = {
    "nulls for numbers": lambda old: _with_other_values(old, None),
    "texts for numbers": lambda old: _with_other_values(old, "\x1b[31m"),
    "huge numbers": lambda old: _with_other_values(old, 2**31 - 1),
    "negative numbers": lambda old: _with_other_values(old, -1),
    "infinite numbers": lambda old: _with_other_values(old, float("inf")),
}

LATEST = "checkpoints/step-6"
MODEL = {"the run", "checkpoints", "latest", LATEST, "recipe.yaml"}
TEXT = MODEL | {"tokenizer.json", "environment.json"}
# What a command opens, beside the files of what is named here.
NEEDS: dict[str, set[str]] = {
    "eval": TEXT,
    "eval --audit": TEXT,
    "route-stats": TEXT | {"metrics.jsonl"},
    "route-stats --over-training": TEXT | {"metrics.jsonl", "checkpoints/step-4"},
    "route-stats --compare": TEXT | {"metrics.jsonl"},
    "generate": MODEL | {"tokenizer.json"},
    "convert": MODEL | {"tokenizer.json", "result.json"},
    "convert --to moecli": TEXT,
    "convert --resize": TEXT,
    "convert --upcycle": TEXT,
    "convert --mix": TEXT,
    "train --resume": MODEL | {"environment.json", "metrics.jsonl", "result.json"},
    "recipes validate": {"the run", "recipe.yaml"},
}


def is_needed(damage: str, command: str) -> bool:
    """Whether a command opens what is damaged."""
    place = Path(damage.split(":")[0])
    return any(str(path) in NEEDS[command] for path in (place, place.parent))


def damages(run: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Every damage by its name, and what does it to a copy of the run."""
    for file in sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and not _in_link(path, run)):
        if file.name.startswith(".") or file.parts[0] == "routing":
            continue
        yield f"{file}: missing", lambda copy, file=file: (copy / file).unlink()
        yield f"{file}: a folder", lambda copy, file=file: ((copy / file).unlink(), (copy / file).mkdir())
        yield f"{file}: a link to itself", lambda copy, file=file: ((copy / file).unlink(), (copy / file).symlink_to(file.name))
        if file.parts[:2] == ("checkpoints", "step-4"):  # `latest` is step-6, whose files are damaged in the ways that follow
            yield f"{file}: random bytes", lambda copy, file=file: _change(copy / file, CONTENTS["random bytes"])
            continue
        for how, change in (CONTENTS | OTHER_VALUES if ".json" in file.suffix else CONTENTS).items():
            yield f"{file}: {how}", lambda copy, file=file, change=change: _change(copy / file, change)
            if file.parts[0] == "checkpoints" and file.name != MANIFEST_FILE:
                yield f"{file}: {how}, forged", lambda copy, file=file, change=change: _change(copy / file, change, forged=True)
    for folder in ("checkpoints", "checkpoints/step-6", "checkpoints/step-4"):
        yield f"{folder}: missing", lambda copy, folder=folder: shutil.rmtree(copy / folder)
        yield f"{folder}: a file", lambda copy, folder=folder: (shutil.rmtree(copy / folder), (copy / folder).write_text("x"))
        yield f"{folder}: empty", lambda copy, folder=folder: (shutil.rmtree(copy / folder), (copy / folder).mkdir())
    for target in ("step-99", "latest", "../../elsewhere", "/", ".", "..", "/nowhere"):
        yield f"latest: to {target}", lambda copy, target=target: _point(copy / "checkpoints/latest", target)
    yield "latest: missing", lambda copy: (copy / "checkpoints/latest").unlink()
    yield "latest: a file", lambda copy: ((copy / "checkpoints/latest").unlink(), (copy / "checkpoints/latest").write_text("step-6"))
    yield "latest: a folder", lambda copy: ((copy / "checkpoints/latest").unlink(), (copy / "checkpoints/latest").mkdir())
    yield "recipe.yaml: of another model", lambda copy: (copy / "recipe.yaml").write_text(OTHER_RECIPE)
    yield "the run: empty", lambda copy: (shutil.rmtree(copy), copy.mkdir())
    yield "the run: a file", lambda copy: (shutil.rmtree(copy), copy.write_text("x"))
    yield "the run: missing", lambda copy: shutil.rmtree(copy)


def commands(run: Path, sound: Path, recipe: Path, out: Path) -> dict[str, list[str]]:
    """Each command that takes a run of an MoE. `sound` is another run, without damage; `recipe` is that of both."""
    return {
        "eval": ["eval", str(run)],
        "eval --audit": ["eval", str(run), "--audit", "--json"],
        "route-stats": ["route-stats", str(run), "--out", str(out)],
        "route-stats --over-training": ["route-stats", str(run), "--over-training", "--out", str(out)],
        "route-stats --compare": ["route-stats", "--compare", str(sound), str(run), "--out", str(out)],
        "generate": ["generate", str(run), "--max-tokens", "2"],
        "convert": ["convert", str(run), str(out)],
        "convert --to moecli": ["convert", str(run), str(out), "--to", "moecli"],
        "convert --resize": ["convert", str(run), str(out), "--resize", "prune", "--experts", "2", "--by", "random"],
        "train --resume": ["train", str(recipe), "--out", str(run), "--resume", "--set", "training.steps=8"],
        "recipes validate": ["recipes", "validate", str(run / "recipe.yaml")],
    }


def dense_commands(run: Path, out: Path) -> dict[str, list[str]]:
    """Each command that takes runs without experts."""
    sparse = ["--set", "model.ffn.kind=sparse", "--set", "model.ffn.num_experts=2", "--set", "model.ffn.d_expert=16"]
    return {
        "convert --upcycle": ["convert", str(run), str(out), "--upcycle", "copies", *sparse],
        "convert --mix": ["convert", str(run), str(run), str(out), "--mix", *sparse],
    }


def copy_of(run: Path, target: Path) -> Path:
    """The same run elsewhere, links and all."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif os.path.lexists(target):
        target.unlink()
    return Path(shutil.copytree(run, target, symlinks=True))


def _change(file: Path, change: Callable[[bytes], bytes], *, forged: bool = False) -> None:
    file.write_bytes(change(file.read_bytes()))
    if forged:
        add_to_manifest(file.parent, [file.name])


def _with_other_values(old: bytes, value: object) -> bytes:
    """Lines of JSON, or a whole file of it, with another value for every number."""
    try:
        return json.dumps(_replaced(json.loads(old), value)).encode() + b"\n"
    except ValueError:
        return b"".join(json.dumps(_replaced(json.loads(line), value)).encode() + b"\n" for line in old.splitlines())


def _replaced(content: object, value: object) -> object:
    if isinstance(content, dict):
        return {key: _replaced(inner, value) for key, inner in content.items()}
    if isinstance(content, list):
        return [_replaced(inner, value) for inner in content]
    return value if isinstance(content, int | float) and not isinstance(content, bool) else content


def _point(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)


def _in_link(path: Path, run: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(run))
