"""A checkpoint of a training, each of its files cut short and with single bits turned: it is refused each time, with the file named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from moecli.errors import RunError
from moecli.model.checkpoint import load_model
from moecli.model.manifest import _text, check_manifest
from tests.workflows.test_train import train_tiny

CUTS, FLIPS = 50, 200


def damaged(content: bytes, generator: random.Random) -> list[bytes]:
    """The content cut at so many places, and with so many bits turned, each on its own."""
    bits = generator.sample(range(8 * len(content)), min(FLIPS, 8 * len(content)))
    flipped = [content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :] for bit in bits]
    cuts = generator.sample(range(len(content)), min(CUTS, len(content)))
    return [*(content[:cut] for cut in cuts), *flipped]


def test_no_damage_to_any_file_is_loaded(tiny_recipe):
    train_tiny(tiny_recipe, "run")
    folder = Path("run/checkpoints/latest").resolve()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(files) == ["config.json", "manifest.json", "model.safetensors", "training_state.json", "training_state.safetensors"]
    generator, tried = random.Random(0), 0
    for name, content in files.items():
        for other in damaged(content, generator):
            (folder / name).write_bytes(other)
            with pytest.raises(RunError) as caught:
                load_model(folder)
            assert caught.value.where == str(folder / name) and caught.value.what.startswith("damaged")
            tried += 1
        (folder / name).write_bytes(content)
    # training_state.json has 26 bytes, fewer than 50 places to cut it at; its bits are 208.
    assert tried == 5 * (CUTS + FLIPS) - (CUTS - len(files["training_state.json"]))
    load_model(folder)


@pytest.mark.parametrize("entry", [[], {}, {"bytes": "1", "sha256": ""}])
def test_a_manifest_that_fits_its_own_hash_but_says_nonsense_is_refused(tmp_path, entry):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "manifest.json").write_text(_text({"config.json": entry}))
    with pytest.raises(RunError, match="damaged"):
        check_manifest(tmp_path)
