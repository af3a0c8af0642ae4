"""A folder, damaged in every way that there is: a run, a comparison, or a checkpoint of Hugging Face.

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
# Of those that hold fractions. Counts, for which many a file is refused, stay as they are.
OTHER_FRACTIONS: dict[str, Callable[[bytes], bytes]] = {
    "infinite fractions": lambda old: _with_other_values(old, float("inf"), of=float),
    "huge fractions": lambda old: _with_other_values(old, 1e300, of=float),
    "texts for fractions": lambda old: _with_other_values(old, "\x1b[31m", of=float),
}
# Of a file of tensors: the last byte is of a number.
OTHER_BITS: dict[str, Callable[[bytes], bytes]] = {"a bit turned": lambda old: old[:-1] + bytes([old[-1] ^ 1])}

LATEST = "checkpoints/step-6"
EARLIER = "checkpoints/step-4"
# The run of a comparison that is damaged.
COMPARED = "runs/tiny/seed-0"

Damage = tuple[str, Callable[[Path], object]]
"""Its name, `PLACE: HOW`, and what does it to a folder."""


def damages(folder: Path) -> Iterator[Damage]:
    """Every damage to a folder, which is a run, a comparison or of Hugging Face."""
    if (folder / "runs").is_dir():
        yield from _damages_of_comparison(folder)
    elif (folder / "checkpoints").is_dir():
        yield from _damages_of_run(folder)
    else:
        yield from _damages_of_huggingface(folder)
    yield "the run: empty", lambda copy: (shutil.rmtree(copy), copy.mkdir())
    yield "the run: a file", lambda copy: (shutil.rmtree(copy), copy.write_text("x"))
    yield "the run: missing", lambda copy: shutil.rmtree(copy)


def copy_of(run: Path, target: Path) -> Path:
    """The same run elsewhere, links and all."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif os.path.lexists(target):
        target.unlink()
    return Path(shutil.copytree(run, target, symlinks=True))


def _damages_of_run(run: Path) -> Iterator[Damage]:
    for file in _files(run):
        if file.name.startswith(".") or file.parts[0] == "routing":
            continue
        if file.is_relative_to(EARLIER):  # `latest` is another, whose files are damaged in all ways
            yield from _damages_of_file(file, {"random bytes": CONTENTS["random bytes"]})
            continue
        changes = _changes(file)
        yield from _damages_of_file(file, changes)
        if file.parts[0] == "checkpoints" and file.name != MANIFEST_FILE:
            yield from ((f"{file}: {how}, forged", _changing(file, change, forged=True)) for how, change in changes.items())
    for folder in ("checkpoints", LATEST, EARLIER):
        yield f"{folder}: missing", lambda copy, folder=folder: shutil.rmtree(copy / folder)
        yield f"{folder}: a file", lambda copy, folder=folder: (shutil.rmtree(copy / folder), (copy / folder).write_text("x"))
        yield f"{folder}: empty", lambda copy, folder=folder: (shutil.rmtree(copy / folder), (copy / folder).mkdir())
    for target in ("step-99", "latest", "../../elsewhere", "/", ".", "..", "/nowhere"):
        yield f"latest: to {target}", lambda copy, target=target: _point(copy / "checkpoints/latest", target)
    yield "latest: missing", lambda copy: (copy / "checkpoints/latest").unlink()
    yield "latest: a file", lambda copy: ((copy / "checkpoints/latest").unlink(), (copy / "checkpoints/latest").write_text("step-6"))
    yield "latest: a folder", lambda copy: ((copy / "checkpoints/latest").unlink(), (copy / "checkpoints/latest").mkdir())
    yield "recipe.yaml: of another model", lambda copy: (copy / "recipe.yaml").write_text(OTHER_RECIPE)


def _damages_of_comparison(folder: Path) -> Iterator[Damage]:
    """Of one of its runs, of the file that says how long the twin of equal time trains, and of the report."""
    for name, damage in _damages_of_run(folder / COMPARED):
        yield f"{COMPARED}/{name}", lambda copy, damage=damage: damage(copy / COMPARED)
    for file in (Path("time-steps.json"), Path("report/compare-dense.json")):
        yield from _damages_of_file(file, _changes(file))
    for inner in ("report", "runs", "runs/tiny", COMPARED, "runs/dense-time/seed-0"):
        yield f"{inner}: missing", lambda copy, inner=inner: shutil.rmtree(copy / inner)
        yield f"{inner}: a file", lambda copy, inner=inner: (shutil.rmtree(copy / inner), (copy / inner).write_text("x"))
        yield f"{inner}: empty", lambda copy, inner=inner: (shutil.rmtree(copy / inner), (copy / inner).mkdir())


def _damages_of_huggingface(folder: Path) -> Iterator[Damage]:
    files = _files(folder)
    shards = [file for file in files if file.suffix == ".safetensors"]
    for file in files:
        is_like_another = file in shards[1:-1] or file.suffix == ".md"
        yield from _damages_of_file(file, {"random bytes": CONTENTS["random bytes"]} if is_like_another else _changes(file))
    yield f"{shards[0]}: another shard", lambda copy: shutil.copy(copy / shards[1], copy / shards[0])


def _damages_of_file(file: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Iterator[Damage]:
    yield f"{file}: missing", lambda copy: (copy / file).unlink()
    yield f"{file}: a folder", lambda copy: ((copy / file).unlink(), (copy / file).mkdir())
    yield f"{file}: a link to itself", lambda copy: ((copy / file).unlink(), (copy / file).symlink_to(file.name))
    yield f"{file}: a pipe", lambda copy: ((copy / file).unlink(), os.mkfifo(copy / file))
    yield from ((f"{file}: {how}", _changing(file, change)) for how, change in changes.items())


def _changes(file: Path) -> dict[str, Callable[[bytes], bytes]]:
    changes = CONTENTS | (OTHER_VALUES if ".json" in file.suffix else OTHER_BITS if file.suffix == ".safetensors" else {})
    return changes | (OTHER_FRACTIONS if file.name in ("metrics.jsonl", "result.json", "config.json") else {})


def _changing(file: Path, change: Callable[[bytes], bytes], *, forged: bool = False) -> Callable[[Path], None]:
    """What gives a file another content; `forged`: and its manifest the new hash."""

    def damage(copy: Path) -> None:
        (copy / file).write_bytes(change((copy / file).read_bytes()))
        if forged:
            add_to_manifest((copy / file).parent, [file.name])

    return damage


def _files(folder: Path) -> list[Path]:
    """All files, not through links."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not any(parent.is_symlink() for parent in path.parents))
    return sorted(path.relative_to(folder) for path in paths)


def _with_other_values(old: bytes, value: object, of: type = object) -> bytes:
    """Lines of JSON, or a whole file of it, with another value for every number; `of`: for every one of this type."""
    try:
        return json.dumps(_replaced(json.loads(old), value, of)).encode() + b"\n"
    except ValueError:
        return b"".join(json.dumps(_replaced(json.loads(line), value, of)).encode() + b"\n" for line in old.splitlines())


def _replaced(content: object, value: object, of: type) -> object:
    if isinstance(content, dict):
        return {key: _replaced(inner, value, of) for key, inner in content.items()}
    if isinstance(content, list):
        return [_replaced(inner, value, of) for inner in content]
    is_number = isinstance(content, int | float) and not isinstance(content, bool)
    return value if is_number and isinstance(content, of) else content


def _point(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)
