"""Which options a mode of `moecli convert` takes."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from moecli.cli.convert import RUN_MODE, convert_command
from moecli.cli.convert_modes import MODES_OF, ConvertArguments, Mode

FOR_ALL = {"sources", "target", "to", "dry_run", "as_json"}


def arguments(**given: Any) -> ConvertArguments:
    nothing: dict[str, Any] = {field.name: None for field in fields(ConvertArguments)}
    return ConvertArguments(**(nothing | {"sources": [Path("run")], "target": Path("new"), "to": "auto"} | given))


def test_the_table_has_every_option_of_the_command():
    parameters = set(inspect.signature(convert_command).parameters)
    assert parameters == {field.name for field in fields(ConvertArguments)}
    asks = {mode.name for mode in RUN_MODE} & parameters
    assert set(MODES_OF) == parameters - FOR_ALL - asks


@pytest.mark.parametrize("mode", RUN_MODE)
@pytest.mark.parametrize("option", MODES_OF)
def test_an_option_is_taken_by_its_modes_alone(mode, option):
    given = arguments(**{option: False if option in ("verify", "scale_outputs") else "x"})
    if mode in MODES_OF[option]:
        given.check_mode(mode)
    else:
        with pytest.raises(typer.BadParameter, match="is for"):
            given.check_mode(mode)


@pytest.mark.parametrize("mode", [mode for mode in RUN_MODE if mode is not Mode.mix])
def test_one_source_but_for_mixing(mode):
    with pytest.raises(typer.BadParameter, match="2 were given"):
        arguments(sources=[Path("a"), Path("b")]).check_mode(mode)


@pytest.mark.parametrize("mode", [mode for mode in RUN_MODE if mode is not Mode.huggingface])
def test_a_class_of_hugging_face_is_no_run(mode):
    arguments(to="moecli").check_mode(mode)
    with pytest.raises(typer.BadParameter, match="which makes a run folder"):
        arguments(to="mixtral").check_mode(mode)


def test_a_source_that_is_no_run_is_the_reason_where_to_moecli_was_given():
    with pytest.raises(typer.BadParameter, match="is for a run as the source, and hf is none"):
        arguments(sources=[Path("hf")], to="moecli", carry_optimizer=True).check_mode(Mode.huggingface)
    with pytest.raises(typer.BadParameter, match="is for --to moecli or --upcycle, which was not given"):
        arguments(carry_optimizer=True).check_mode(Mode.huggingface)
