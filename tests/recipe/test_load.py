"""From a file to a recipe and back, and that nothing in a file can be a traceback."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.errors import RecipeError
from moecli.recipe.load import dump_recipe, load_recipe, parse_recipe
from moecli.recipe.problem import InvalidRecipe
from moecli.recipe.schema import Recipe
from moecli.recipe.yaml_source import write_yaml
from tests.recipe.toy_schema import MLP, Corpus, Data, Hash, Model, Soft, Sparse, TopK, Toy, Training

NEXT_SHOW = "\n  next: `moecli recipes show quickstart` shows a complete recipe"
NEXT_LIST = (
    "\n  next: `moecli recipes list` shows the recipes that ship with moecli, `moecli recipes copy quickstart` begins one of your own"
)


def refusal(text: str | bytes, tmp_path: Path) -> str:
    file = tmp_path / "my.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, schema=Toy)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(file), "my.yaml")


def test_a_file_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_bytes(b"\xef\xbb\xbfname: a\r\nmodel: {num_heads: 2}\r\n")
    loaded = load_recipe(str(file), ["seed=3", "model.ffn.kind=mlp"], schema=Toy)
    assert loaded.recipe == Toy(name="a", seed=3, model=Model(num_heads=2, ffn=MLP()))
    assert loaded.notices == ()
    assert loaded.source == str(file)


def test_the_schema_is_that_of_recipes_unless_another_is_given() -> None:
    assert parse_recipe("name: a", "text").recipe == Recipe(name="a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "my.yaml: the recipe is empty" + NEXT_LIST),
        ("# nothing\n---\n", "my.yaml: the recipe is empty" + NEXT_LIST),
        ("- name: a", "my.yaml:1: a recipe is a mapping of keys to values" + NEXT_SHOW),
        ("\njust text", "my.yaml:2: a recipe is a mapping of keys to values" + NEXT_SHOW),
        ("!!set {a}", "my.yaml:1: a recipe is a mapping of keys to values" + NEXT_SHOW),
        ("name: a\n\tseed: 1", "my.yaml:2:1: a tab can't indent: use spaces" + NEXT_SHOW),
        ("nam: a", "my.yaml:1: nam: unknown key; did you mean name? (allowed here: name, seed, model, data, training)" + NEXT_SHOW),
        (b"name: a\nseed: \xff1", "my.yaml:2: the byte 0xff is not UTF-8\n  next: save the file as UTF-8"),
        ("name: a".encode("utf-16"), "my.yaml:1: the byte 0xff is not UTF-8\n  next: save the file as UTF-8"),
        (b"name: " + b"a" * 2**20, "my.yaml: more than 1048576 bytes: this is no recipe" + NEXT_LIST),
        (
            "seed: x\nname: 3\n",
            'my.yaml: 2 problems\nmy.yaml:1: seed = "x": must be a whole number\nmy.yaml:2: name = 3: must be text' + NEXT_SHOW,
        ),
    ],
)
def test_refusals(text: str | bytes, message: str, tmp_path: Path) -> None:
    assert refusal(text, tmp_path) == message


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so the system would not refuse it
    (tmp_path / "my.yaml").touch()
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "my.yaml")
    assert str(caught.value) == f"{tmp_path}/my.yaml: can't be read: permission denied{NEXT_LIST}"


WORDS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
COUNTS = st.integers(1, 2**31 - 1)
FRACTIONS = st.floats(0, 1)
ROUTERS = st.builds(TopK, top_k=st.just(1)) | st.builds(Hash, hash_seed=st.integers(-(10**30), 10**30))
FEED_FORWARDS = (
    st.builds(Sparse, num_experts=COUNTS, d_expert=st.none() | COUNTS, router=ROUTERS)
    | st.builds(MLP, d_ff=st.none() | COUNTS)
    | st.builds(Soft, num_experts=COUNTS)
)
RECIPES = st.builds(
    Toy,
    name=WORDS,
    seed=st.integers(-(10**40), 10**40),
    model=st.builds(
        Model,
        num_heads=st.just(1),
        d_model=COUNTS,
        ffn=FEED_FORWARDS,
        layers=st.just("all") | st.lists(st.integers(0, 9)),
        routers=st.lists(ROUTERS),
    ),
    data=st.builds(
        Data,
        seq_len=st.integers(-9, 9).map(lambda n: 8 * n),
        files=st.lists(WORDS, max_size=3),
        shape=st.lists(st.integers()).map(tuple),
        labels=st.dictionaries(WORDS, st.integers()),
        extra=st.none() | st.builds(Corpus, path=WORDS, weight=FRACTIONS),
        tag=st.text("abcno", min_size=1, max_size=8),
    ),
    training=st.builds(
        Training,
        steps=COUNTS.filter(lambda steps: steps > 3),
        learning_rate=st.floats(0, exclude_min=True, allow_infinity=False),
        dropout=FRACTIONS,
        compile=st.booleans(),
        optimizer=st.sampled_from(["adamw", "muon"]),
        clip=st.none() | st.booleans() | st.floats(0.1, 10),
    ),
)


@given(RECIPES)
def test_what_is_dumped_loads_as_an_equal_recipe(recipe: Toy) -> None:
    text = dump_recipe(recipe)
    loaded = parse_recipe(text, "dump", schema=Toy)
    assert loaded.recipe == recipe
    assert repr(loaded.recipe) == repr(recipe)  # 1 == 1.0 == True, but not in repr
    assert dump_recipe(loaded.recipe) == text


def test_a_dump_is_whole_and_in_the_order_of_the_schema() -> None:
    assert dump_recipe(Toy(model=Model(ffn=MLP(d_ff=3)), training=Training(learning_rate=1e-5), data=Data(shape=(1,)))) == (
        "name: toy\nseed: 0\n"
        "model:\n  d_model: 128\n  num_heads: 4\n  ffn:\n    kind: mlp\n    d_ff: 3\n  layers: all\n  routers: []\n"
        "data:\n  seq_len: 256\n  files: []\n  shape:\n  - 1\n  labels: {}\n  extra: null\n  tag: x\n"
        "training:\n  steps: 300\n  learning_rate: 1.0e-05\n  dropout: 0.0\n  compile: false\n  optimizer: adamw\n  clip: null\n"
    )


VALID: dict[str, Any] = Toy(
    model=Model(ffn=Sparse(d_expert=3), layers=[1, 2], routers=[Hash()]),
    data=Data(files=["a"], labels={"code": 1}, extra=Corpus(path="x")),
).model_dump(mode="json")
PYDANTIC_WORDS = re.compile(
    r"Input should|valid (integer|string|dict)|_kind_of|tag:yaml|pydantic|literal\[|unable to|Extra inputs|NoneType"
)
ODD_VALUES = [
    None,
    True,
    -1,
    0,
    2**31,
    10**60,
    1.5,
    1e308,
    float("nan"),
    "",
    "abc",
    "no",
    "\u202e\U0001f989",
    [],
    [[]],
    {},
    {"kind": 3},
    {"kind": "mlp"},
    {"": {"": 1}},
]
ODD_KEYS = ["", "kind", "num_expert", "a.b", "é", "\U0001f989", "<<", "null", "topk", "x" * 500, "model", "[key]", "0"]


def damaged(rng: random.Random) -> Any:
    """The valid recipe with some values replaced, removed, or joined by unknown keys."""

    def copy(value: Any) -> Any:
        if rng.random() < 0.06:
            return rng.choice(ODD_VALUES)
        if isinstance(value, dict):
            items = {key: copy(item) for key, item in value.items() if rng.random() > 0.05}
            return items | ({rng.choice(ODD_KEYS): rng.choice(ODD_VALUES)} if rng.random() < 0.15 else {})
        return [copy(item) for item in value] if isinstance(value, list) else value

    return {key: copy(value) for key, value in VALID.items()}


def test_a_damaged_recipe_is_refused_with_key_and_line() -> None:
    rng = random.Random(0)
    num_refused = 0
    for _ in range(600):
        text = write_yaml(damaged(rng))
        try:
            parse_recipe(text, "my.yaml", schema=Toy)
        except InvalidRecipe as error:
            num_refused += 1
            assert not PYDANTIC_WORDS.search(str(error)), error
            assert len({(problem.path, problem.what) for problem in error.problems}) == len(error.problems)
            for problem in error.problems:
                assert problem.path
                assert re.match(r"my\.yaml:\d+: \S", str(problem))
                assert str(problem).isprintable()
    assert 400 < num_refused < 600  # some are sound by chance


LINES = write_yaml(VALID).splitlines()
YAML_TRICKS = [
    "\t",
    "\0",
    "&a ",
    "*a",
    "<<: *a",
    "- ",
    "? ",
    ": ",
    "!!int ",
    "!!binary x",
    "!odd ",
    "---",
    "...",
    "%YAML 9.9",
    "|",
    ">",
    "'",
    '"',
    "[",
    "}",
    "\\U",
    "\ufeff",
    "\u2028",
    "\x85",
    "9" * 5000,
    "1e999",
]


@given(
    st.lists(
        st.tuples(st.integers(0, len(LINES) - 1), st.integers(0, 20), st.sampled_from(YAML_TRICKS) | st.text(max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_damaged_text_is_refused_with_a_line(damages: list[tuple[int, int, str]]) -> None:
    lines = list(LINES)
    for index, column, trick in damages:
        lines[index] = lines[index][:column] + trick + lines[index][column:]
    try:
        parse_recipe("\n".join(lines), "my.yaml", schema=Toy)
    except RecipeError as error:
        assert re.match(r"my\.yaml: \d+ problems\n|my\.yaml:\d+(:\d+)?: \S|my\.yaml: the recipe is empty", str(error))
        assert all(line.isprintable() for line in str(error).splitlines())
        assert not PYDANTIC_WORDS.search(str(error)), error


@given(
    st.lists(
        st.text() | st.from_regex(r"(model|data|training)\.(ffn|kind|extra|files)(\.kind|\.[a-z])?=.{0,8}", fullmatch=True), max_size=4
    )
)
def test_random_overrides_are_laid_over_or_refused(overrides: list[str]) -> None:
    try:
        parse_recipe("name: a", "my.yaml", overrides, Toy)
    except InvalidRecipe as error:
        assert all(problem.place.is_override for problem in error.problems)
        assert all(line.isprintable() for line in str(error).splitlines())
