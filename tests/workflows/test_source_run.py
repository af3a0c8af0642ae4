"""What a conversion from run to run begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from moecli.errors import ConvertError
from moecli.model.checkpoint import read_tensors, write_tensors
from moecli.model.manifest import add_to_manifest
from moecli.recipe.load import load_recipe
from moecli.workflows.source_run import open_source
from moecli.workflows.train import train


def test_the_first_bad_tensor_is_named(tiny_recipe):
    run = train(load_recipe(tiny_recipe, ("model.ffn.kind=mlp", "training.steps=2")).recipe, out=Path("run"), listener=lambda event: None)
    path = run.checkpoint / "model.safetensors"
    assert open_source(Path("run")).checkpoint == run.checkpoint
    weights = {name: tensor.clone() for name, tensor in read_tensors(path).items()}
    weights["norm.weight"][0] = float("inf")
    write_tensors(weights, path)
    add_to_manifest(path.parent, [path.name])
    with pytest.raises(ConvertError, match=r"norm\.weight holds numbers that are none"):
        open_source(Path("run"))
    weights["blocks.1.ffn.in_proj.weight"][3, 2] = float("nan")
    write_tensors(weights, path)
    add_to_manifest(path.parent, [path.name])
    with pytest.raises(ConvertError, match=r"blocks\.1\.ffn\.in_proj\.weight holds"):
        open_source(Path("run"))
