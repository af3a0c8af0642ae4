"""`moecli convert`: a run becomes a Hugging Face folder, or one of those a run, and both are shown to compute the same.

Knows which way a conversion goes. Must not know tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moecli.analysis.hf_folder import is_huggingface_folder
from moecli.convert.config_reader import CONFIG_FILE, read_config
from moecli.errors import RunError
from moecli.workflows.convert_export import export_checkpoint, plan_export
from moecli.workflows.convert_import import import_checkpoint, plan_import
from moecli.workflows.convert_request import AUTO, MOECLI, Conversion, ConversionPlan, ConvertRequest
from moecli.workflows.events import Listener
from moecli.workflows.first_checkpoint import check_is_free
from moecli.workflows.run_dir import find_checkpoint
from moecli.workflows.source_run import is_run

__all__ = ["Conversion", "ConversionPlan", "ConvertRequest", "convert", "plan_conversion"]


def convert(request: ConvertRequest, listener: Listener) -> Conversion:
    """Converts a checkpoint into a new folder, which is absent or complete whatever happens.

    Raises:
        ConvertError: the source is damaged, the other side can't represent it, the target is taken, or the two don't compute the same.
        RunError: the source is no checkpoint.
        MachineError: the disk refuses, or --verify was asked for without the package transformers.
    """
    check_is_free(request.target)
    with _empty_kept(request.target):
        return import_checkpoint(request, listener) if _is_import(request) else export_checkpoint(request, listener)


def plan_conversion(request: ConvertRequest) -> ConversionPlan:
    """What `convert` would write, from the headers of the files alone. Raises what `convert` does."""
    check_is_free(request.target)
    return plan_import(request) if _is_import(request) else plan_export(request)


@contextmanager
def _empty_kept(target: Path) -> Iterator[None]:
    """An empty folder that the user made is there again after a failure: what was half-written goes away with its folder."""
    was_there = target.is_dir()
    try:
        yield
    except BaseException:
        if was_there:
            target.mkdir(exist_ok=True)
        raise


def _is_import(request: ConvertRequest) -> bool:
    try:
        is_huggingface = is_huggingface_folder(request.source)
    except RunError:
        read_config(request.source)  # says that it is damaged
        raise
    if request.to == MOECLI and not is_huggingface:
        if not (request.source / CONFIG_FILE).exists() and not is_run(request.source):
            find_checkpoint(request.source, or_else="a Hugging Face folder")  # says that it is none of them
        read_config(request.source)  # says what is wrong with it
    return is_huggingface and request.to in (AUTO, MOECLI)
