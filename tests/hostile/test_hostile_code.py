"""Nothing that comes in a file is ever run: no pickle, no tag of YAML, no program of a checkpoint, no template."""

from __future__ import annotations

import ast
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from moecli.cli import app
from moecli.convert.hf_folder import load_gpt
from moecli.data.corpora.files import FilesCorpus
from moecli.data.tokenizer import Tokenizer
from moecli.errors import DataError, MoecliError, RecipeError
from moecli.model.checkpoint import read_tensors
from moecli.recipe.load import load_recipe
from tests.convert.models import PLAIN, config_of, random_model, write_folder
from tests.hostile.bounds import within

SOURCES = [path for folder in ("moecli", "benchmarks") for path in sorted(Path(folder).rglob("*.py"))]
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "code", "codeop"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    *("torch.load", "torch.hub.load", "torch.jit.load", "numpy.load", "np.load", "pandas.read_pickle", "pd.read_pickle"),
    *("os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pickle.load", "pickle.loads"),
}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def name_of(node: ast.AST) -> str:
    """`torch.load` of the expression torch.load; "" where it is anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) and name_of(node.value) else ""


def dangers(source: str) -> list[str]:
    """What could run a program that comes from data, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{node.lineno}: import {module}" for module in modules if module.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in _dangers_of_call(node)]
    return found


def _dangers_of_call(node: ast.Call) -> list[str]:
    called = name_of(node.func)
    options = {option.arg: option.value for option in node.keywords}
    found = [called] if called in FORBIDDEN_NAMES | FORBIDDEN_CALLS else []
    if called == "yaml.load" and not {name_of(value) for value in [*node.args[1:], *options.values()]} & SAFE_LOADERS:
        found.append("yaml.load without a safe loader")
    if called in ("importlib.import_module", "import_module") and not isinstance(node.args[0], ast.Constant):
        found.append("a module whose name is data")
    for option in ("shell", "trust_remote_code", "allow_pickle", "weights_only"):
        if option in options and not (isinstance(options[option], ast.Constant) and options[option].value is False):
            found.append(f"{option} other than False")
    return found


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from marshal import loads", "eval(text)", "exec(text)", "compile(text, '', 'exec')", "__import__(name)"),
        *(
            "torch.load(path)",
            "np.load(path)",
            "os.system(line)",
            "subprocess.run(line, shell=True)",
            "subprocess.run(line, shell=is_shell)",
        ),
        *("yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "yaml.unsafe_load(text)", "importlib.import_module(name)"),
        *("AutoModel.from_pretrained(folder, trust_remote_code=True)", "load(folder, trust_remote_code=option)"),
    ],
)
def test_what_is_dangerous_is_found(source):
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    "source",
    ["re.compile(text)", "model.eval()", "yaml.load(text, Loader=yaml.SafeLoader)", "f(trust_remote_code=False)", "import code_of"],
)
def test_what_is_harmless_is_not(source):
    assert dangers(source) == []


def test_no_source_does_any_of_it():
    assert len(SOURCES) > 200
    found = {str(path): lines for path in SOURCES if (lines := dangers(path.read_text(encoding="utf-8")))}
    assert found == {}


def test_every_reading_of_a_model_by_transformers_refuses_its_programs():
    sources = [path.read_text(encoding="utf-8") for path in SOURCES]
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    reading = [
        node for node in calls if name_of(node.func).endswith(("AutoConfig.from_pretrained", "AutoModelForCausalLM.from_pretrained"))
    ]
    assert len(reading) >= 3
    assert all("trust_remote_code" in {option.arg for option in node.keywords} for node in reading)


class Payload:
    """Its pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def pickled(tmp_path) -> tuple[bytes, Path]:
    """A pickle, and what is there when it has been read."""
    content = pickle.dumps({"a": Payload(tmp_path / "ran")}, protocol=2)
    pickle.loads(content)
    (tmp_path / "ran").rmdir()  # it works
    return content, tmp_path / "ran"


READERS = {
    "model.safetensors": read_tensors,
    "training_state.safetensors": read_tensors,
    "tokenizer.json": Tokenizer.load,
    "recipe.yaml": load_recipe,
    **{
        f"text.{suffix}": lambda path: list(FilesCorpus(paths=[str(path)]).documents())
        for suffix in ("txt", "jsonl", "json", "csv", "parquet")
    },
}


@pytest.mark.parametrize("name", READERS)
def test_a_pickle_under_another_name_is_refused_and_does_not_run(name, pickled, tmp_path):
    content, ran = pickled
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MoecliError):
        READERS[name](tmp_path / name)
    assert not ran.exists()


@pytest.mark.parametrize("is_indexed", [False, True])
def test_pickled_weights_of_a_checkpoint_do_not_run(is_indexed, pickled, tmp_path):
    pytest.importorskip("transformers")
    from moecli.analysis.hf_model import load_huggingface

    content, ran = pickled
    folder = write_folder(random_model(config_of(PLAIN["mixtral"])), tmp_path / "hf", max_bytes=20_000)
    index = folder / "model.safetensors.index.json"
    if is_indexed:  # transformers would read it as a pickle for the end of its name
        weight_map = json.loads(index.read_text())["weight_map"]
        (folder / "weights.bin").write_bytes(content)
        index.write_text(json.dumps({"weight_map": dict.fromkeys(weight_map, "weights.bin")}))
    else:
        for path in folder.glob("*.safetensors"):
            path.write_bytes(content)
    for load in (load_gpt, load_huggingface):
        with pytest.raises(MoecliError) as caught:
            load(folder)
        assert not ran.exists()
        assert ("weights.bin" in caught.value.what) is is_indexed


TAGS = ("!!python/object/apply:os.mkdir [{path}]", "!!python/object/new:os.mkdir [{path}]", "!!python/name:os.mkdir ''")


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_of_yaml_does_not_run(tag, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: {tag.format(path=tmp_path / 'ran')}\n")
    with pytest.raises(RecipeError, match="has no meaning in a recipe"):
        load_recipe(recipe)
    with pytest.raises(RecipeError):
        load_recipe("quickstart", [f"name={tag.format(path=tmp_path / 'ran')}"])
    assert not (tmp_path / "ran").exists()
    assert app.run(["recipes", "validate", str(recipe)], debug=False) == 2


@pytest.mark.parametrize("depth", [9, 30])
def test_aliases_of_yaml_that_double_end_in_time(depth, tmp_path):
    # 9 or 30 lines, each ten times the one before: 10^9 or 10^30 values.
    lines = ["a0: &a0 x", *(f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]" for number in range(1, depth + 1))]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    with within(seconds=5), pytest.raises(RecipeError, match="more than 10000 values"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_set_of_data_that_brings_a_program_does_not_run_it(tmp_path):
    from moecli.data.corpora.hub import HubCorpus

    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "data.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    (folder / "data.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(DataError):
        list(HubCorpus(path=str(folder)).documents())
    assert not (tmp_path / "ran").exists()
