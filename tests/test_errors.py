"""Errors travel between processes, and arrive as they left."""

from __future__ import annotations

import pickle

import pytest

from moecli.errors import Interrupted, MoecliError, PeerLost
from moecli.recipe.load import load_recipe
from moecli.recipe.problem import InvalidRecipe


def broken_recipe() -> MoecliError:
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe("quickstart", ["training.steps=-1", "nmae=x"])
    return caught.value


def interrupted() -> MoecliError:
    error = Interrupted("interrupted")
    error.exit_code = 143
    return error


@pytest.mark.parametrize(
    "make",
    [lambda: PeerLost("gone", where="node0", allowed="none", next_step="look"), broken_recipe, interrupted],
    ids=["fields", "own", "code"],
)
def test_an_error_arrives_as_it_left(make):
    error = make()
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error) and str(arrived) == str(error) and arrived.args == error.args
    assert vars(arrived) == vars(error) and arrived.exit_code == error.exit_code
