"""Labels, tokens and file names that are commands to a terminal, a browser, a spreadsheet or an XML reader: everywhere they stay text."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import os
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from moecli.cli import app
from moecli.convert.model_card import CardFacts, model_card
from moecli.reports.csv_file import write_csv
from moecli.reports.markdown import escaped
from tests.conftest import TINY_RECIPE

HOSTILE = (
    *("\x1b[31mred\x1b[0m\x07", "\x1b]8;;http://evil.example\x1b\\link", "\x9b31m", "a\rb", "\u202eright to left\u2066", "\x00\x08\x7f"),
    *("[red]", "[/]", "[/red]", "[link=http://evil.example]x[/link]", "[bold"),
    *("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"'><svg onload=alert(1)>", "javascript:alert(1)", "<!--"),
    *("{{ 7*7 }}", "{% for x in y %}", "${7*7}", "$\\frac{1}{2}$", "$\\undefined", "$$", "_hidden", "%s %(x)s {0}"),
    *("=cmd()", "+1", "-1", "@SUM(A1)", "\t=cmd()", "\n=cmd()", "＝cmd()"),
    *("a|b", "`x`", "[x](http://evil.example)", "![x](http://evil.example/x.png)", "]]>", "&amp;"),
)
NAME = "[red]\x1b[31m$\\frac$ <b>&'\"{{ 7*7 }}\u202e"
FINE_CONTROLS = "\n\t"


def strange(text: str) -> set[str]:
    """Characters that a terminal or a reader may obey."""
    return {letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in FINE_CONTROLS}


def called(arguments: list[str]) -> tuple[int, str, str]:
    """The command line in this process: exit code, stdout, stderr."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        return app.run(arguments, debug=False), output.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A training on texts with these labels, in a folder and from a file of this name, and its route-stats: what was said, and where."""
    folder, before = tmp_path_factory.mktemp("text"), Path.cwd()
    os.chdir(folder)
    rows = [{"text": f"{label} {number} {label}" * 8, NAME: label} for number in range(3) for label in HOSTILE]
    table = f"{NAME.replace('/', '')}.jsonl"
    Path(table).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpus = {"kind": "files", "paths": [table.replace("[", "[[]")], "label_column": NAME}
    Path("recipe.yaml").write_text(TINY_RECIPE.replace("{kind: files, paths: [text.txt]}", json.dumps(corpus)), encoding="utf-8")
    commands = {
        "train": ["train", "recipe.yaml", "--out", NAME],
        "route-stats": ["route-stats", NAME, "--min-count", "1", "--split", "train", "--by", NAME, "--out", f"out{NAME}"],
        "eval": ["eval", NAME, "--text", table],
        "generate": ["generate", NAME, "--prompt", NAME, "--max-tokens", "20"],
        "a recipe that is not there": ["train", f"{NAME}.yaml"],
        "a folder that is not there": ["eval", f"{NAME}{NAME}"],
        "convert": ["convert", NAME, f"hf{NAME}", "--no-verify"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOECLI_CACHE", str(folder / "cache"))
        patch.setattr(importlib.import_module("moecli.reports.picture"), "DPI", 20)
        yield folder, {name: called(arguments) for name, arguments in commands.items()}
    os.chdir(before)


def test_the_commands_do_their_work(made):
    codes = {name: code for name, (code, _, errors) in made[1].items()}
    assert codes == dict.fromkeys(codes, 0) | {"a recipe that is not there": 2, "a folder that is not there": 2}, made[1]


def test_a_terminal_is_given_no_commands(made):
    found = {name: strange(output + errors) for name, (_, output, errors) in made[1].items()}
    assert {name: letters for name, letters in found.items() if letters} == {}
    shown = " ".join(made[1]["a folder that is not there"][2].split())
    assert "[red]\\x1b[31m$\\frac$ <b>&'\"{{ 7*7 }}\\u202e" in shown


def test_json_has_the_text_as_it_is(made):
    code, output, _ = called(["eval", NAME, "--json"])
    assert code == 0 and strange(output) == set() and NAME in json.loads(output)["checkpoint"]
    [path] = reports(made, ".json")
    assert strange(path.read_text(encoding="utf-8")) == set()
    [part] = [part for part in json.loads(path.read_text(encoding="utf-8"))["specialisation"] if part["label"] == NAME]
    assert set(part["values"]) <= set(HOSTILE) and len(part["values"]) > 20


class Page(HTMLParser):
    """Tags, attributes, and what is in the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.scripts += [""] if tag == "script" else []

    def handle_data(self, data: str) -> None:
        if self.scripts and self.tags[-1] == "script":
            self.scripts[-1] += data


def reports(made, suffix: str) -> list[Path]:
    found = sorted((made[0] / f"out{NAME}").glob(f"*{suffix}"))
    assert found
    return found


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_page_opens_nothing_and_runs_nothing_of_the_data(made):
    for path in reports(made, ".html"):
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        # The data, which is no program, and the program, which is the package's own.
        assert page.tags.count("script") == 2 and not {"img", "iframe", "object", "embed", "form", "base", "b"} & set(page.tags)
        assert strange(text) == set()
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        opened = [value for name, value in page.attributes if name in ("src", "href", "action", "data", "xlink:href")]
        assert all(value.startswith("#") or value == "data:," for value in opened)
        assert "default-src 'none'" in text and "evil.example" not in page.scripts[1] and "7*7" not in page.scripts[1]
        [part] = [part for part in json.loads(page.scripts[0])["specialisation"] if part["label"] == NAME]
        assert "{{ 7*7 }}" in part["values"] and "</script><script>alert(1)</script>" in part["values"]


def test_a_picture_is_xml_whose_text_is_text(made):
    texts = ""
    for path in reports(made, ".svg"):
        root = ElementTree.parse(path).getroot()
        assert not {element.tag.rpartition("}")[2] for element in root.iter()} & {"script", "image", "a", "foreignObject"} - {"image"}
        attributes = [(name, value) for element in root.iter() for name, value in element.attrib.items()]
        assert not [name for name, _ in attributes if name.rpartition("}")[2].startswith("on")]
        assert all(value.startswith(("#", "data:image/png")) for name, value in attributes if name.endswith("href"))
        assert strange("".join(root.itertext())) == set()
        texts += "".join(root.itertext())
    # Mathematics would have become curves.
    assert "$\\frac$" in texts and "\\x1b[31m" in texts


def test_a_table_has_no_formulas(made):
    cells = [cell for path in reports(made, ".csv") for row in rows_of(path) for cell in row]
    words = [cell for cell in cells if not re.fullmatch(r"-?[\d.e+-]+", cell)]
    assert "'=cmd()" in words and "'+1" in [*words, *cells]
    assert not [cell for cell in words if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))]


@pytest.mark.parametrize("text", [*HOSTILE, NAME, "half \ud800 a character"])
def test_a_cell_of_a_table_is_no_formula(text, tmp_path):
    assert write_csv([{"column": text, "number": -1.5}], tmp_path / "x.csv")
    [_, [cell, number]] = rows_of(tmp_path / "x.csv")
    assert cell in (text, f"'{text}", text.encode("utf-8", "backslashreplace").decode())
    assert cell[0] not in "=+-@\t\r\n＝" and number == "-1.5"


@pytest.mark.parametrize("text", [*HOSTILE, NAME, "half \ud800 a character"])
def test_markdown_has_the_text_and_no_markup(text):
    shown = escaped(text)
    assert strange(shown) <= {"\u2060"} and "\n" not in shown
    shown.encode()
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|]", shown)


@pytest.mark.parametrize("text", [*HOSTILE, NAME, "half \ud800 a character", "```\n# heading\n````\n"])
def test_a_model_card_has_the_text_and_no_markup(text):
    facts = CardFacts(text, "Mixtral", 2, 1, "float32", f"moecli convert RUN {text}", f"name: |\n  {text}", text, {}, [], None)
    lines = model_card(facts).split("\n")
    title = lines[lines.index("---", 1) + 2]
    assert title.startswith("# ")
    assert strange(title) == set()
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|]", title)
    # What is between fences is not read: each that opens is closed by the first of its kind, and the recipe is the last.
    fence = ""
    open_lines = []
    for line in lines:
        ticks = re.match(" {0,3}(`{3,})", line)
        if not fence and ticks:
            fence = ticks[1]
        elif fence and re.fullmatch(f" {{0,3}}{fence}`* *", line):
            fence = ""
        elif not fence:
            open_lines.append(line)
    assert fence == "" and "# heading" not in open_lines and not [line for line in open_lines if "<script" in line and "\\<" not in line]


def test_the_card_of_an_export_can_be_written(made):
    card = (made[0] / f"hf{NAME}" / "README.md").read_text(encoding="utf-8")
    assert "{{ 7\\*7 }}" in card and strange(card.partition("## Recipe")[0]) == set()


def test_a_name_with_bytes_that_are_no_text(made):
    for suffix in (b"\xff", b"\xed\xa0\x80"):
        name = os.fsdecode(b"hf" + suffix)
        code, _, errors = called(["convert", NAME, name, "--no-verify"])
        assert code == 0, errors
        (made[0] / name / "README.md").read_text(encoding="utf-8")
