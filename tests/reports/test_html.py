"""The page holds the report and nothing from elsewhere, and no name, note or token of a report can leave its place in it."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest

from moecli.reports.html import compact, write_comparison_html, write_html
from tests.reports.report_content import report_content

HOSTILE = "</script><!--<img src=x onerror=alert(1)>&amp;'\"{{ 1 }}"


class Page(HTMLParser):
    """Tags with their attributes, the text outside of scripts, and the data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.script, self.data = "", "", ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.text += " "
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag not in ("script", "style") else f"{tag} {dict(attrs).get('id', '')}"

    def handle_data(self, data):
        if self._inside == "script data":
            self.data += data
        elif self._inside.startswith("script"):
            self.script += data
        elif not self._inside.startswith("style"):
            self.text += data

    def handle_endtag(self, tag):
        self._inside = ""

    def words(self) -> str:
        return " ".join(self.text.split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}


def unpacked(packed: dict) -> list[list[float]]:
    """The inverse of packing, from its description: little-endian numbers, row after row."""
    content = base64.b64decode(packed["matrix"])
    size, letter = {"int16": (2, "h"), "float32": (4, "f")}[packed["kind"]]
    numbers = struct.unpack(f"<{len(content) // size}{letter}", content)
    return [list(numbers[start : start + packed["columns"]]) for start in range(0, len(numbers), packed["columns"])]


def page_of(report: dict, path: Path) -> Page:
    write_html(report, path / "report.html")
    return Page(path / "report.html")


def without_parts() -> dict:
    """A report in which every part that may be missing is."""
    empty = {
        "specialisation": [],
        "vocabulary": [],
        "coactivation": [],
        "consistency": [],
        "checkpoints": [],
        "saturation": [],
        "notes": [],
    }
    return (
        report_content()
        | empty
        | {"paths": None, "training": None, "communication": None, "ablation": None, "text": {"layers": [1, 2, 3], "sequences": []}}
    )


def test_numbers_get_five_digits_and_what_is_no_number_becomes_none():
    content = {"a": 0.123456789, "b": [1234567, math.nan, "x"], "c": {"d": math.inf, "e": True}, "f": None}
    assert compact(content) == {"a": 0.12346, "b": [1234567, None, "x"], "c": {"d": None, "e": True}, "f": None}


def test_matrices_are_packed_and_come_back():
    # 0.25 and 3.5 are exact in float32; 0.1 is within a relative 2^-24.
    packed = compact([[0.25, None], [0.1, 3.5]])
    assert (packed["kind"], packed["columns"]) == ("float32", 2)
    (quarter, none), (tenth, large) = unpacked(packed)
    assert (quarter, large) == (0.25, 3.5)
    assert math.isnan(none)
    assert tenth == pytest.approx(0.1, rel=2**-24)


def test_matrices_of_small_whole_numbers_are_packed_as_such():
    assert compact([[-1, 0], [1, 32767]])["kind"] == "int16"
    assert unpacked(compact([[-1, 0], [1, 32767]])) == [[-1, 0], [1, 32767]]
    assert unpacked(compact([[32768, 0]])) == [[32768.0, 0.0]]


@pytest.mark.parametrize("rows", [[], [[]], [[1.0], [1.0, 2.0]], [["a"]], [[True]], [1.0, [1.0]]])
def test_what_is_no_matrix_is_not_packed(rows):
    assert compact(rows) == rows


def test_the_page_holds_the_report(tmp_path):
    report = report_content()
    data = json.loads(page_of(report, tmp_path).data)
    assert data["loss"] == report["loss"]
    assert data["layers"][1]["load"] == pytest.approx(report["layers"][1]["load"], rel=1e-4)
    share = report["specialisation"][0]["layers"][2]["share_of_tokens"]
    assert unpacked(data["specialisation"][0]["layers"][2]["share_of_tokens"]) == [pytest.approx(row, rel=1e-6) for row in share]
    assert unpacked(data["text"]["sequences"][0]["experts"]) == report["text"]["sequences"][0]["experts"]
    assert unpacked(data["coactivation"][0]["special"]) == report["coactivation"][0]["special"]


def test_the_header_says_what_was_measured(tmp_path):
    report = report_content() | {"notes": ["this model sees its future"], "sample": {"tokens": 4096, "documents": 1, "of_tokens": 75_123}}
    text = page_of(report, tmp_path).words()
    for words in ("runs/first/checkpoints/step-600", "stdlib, validation", "75,123", "3.463 nats per token", "31.92"):
        assert words in text
    assert "4,096 of 75,123 tokens, 1 document " in text
    assert "Keep in mind this model sees its future" in text


def test_hostile_names_notes_and_tokens_stay_text(tmp_path):
    report = report_content()
    report |= {"checkpoint": HOSTILE, "corpus": HOSTILE, "split": HOSTILE, "model_type": HOSTILE, "notes": [HOSTILE]}
    report["specialisation"][0] |= {"label": HOSTILE, "values": [HOSTILE] * 4}
    report["vocabulary"][0]["top"][0]["token"] = HOSTILE
    report["text"]["sequences"][0]["tokens"][0] = HOSTILE
    page = page_of(report, tmp_path)
    assert (page.count("script"), page.count("img"), page.count("b")) == (2, 0, 0)
    # The title, the heading, the text and its split, the model and the note.
    assert page.text.count(HOSTILE) == 6
    data = json.loads(page.data)
    assert data["text"]["sequences"][0]["tokens"][0] == HOSTILE
    assert data["specialisation"][0]["values"] == [HOSTILE] * 4
    assert not set("<>&'") & set(page.data)


def test_what_turns_letters_around_is_written_out(tmp_path):
    report = report_content() | {"checkpoint": "runs/\u202etxt.exe", "corpus": "a\u2066b", "notes": ["\u200fnote"]}
    text = page_of(report, tmp_path).text
    assert not set("\u202e\u2066\u200f") & set(text)
    assert all(words in text for words in ("runs/\\u202etxt.exe", "a\\u2066b", "\\u200fnote"))


def test_the_tokens_of_coactivation_are_told(tmp_path):
    assert "are of 8,192 tokens, spread over the sample of 75,123;" in page_of(report_content(), tmp_path).words()


def test_a_path_that_is_no_text_is_shown(tmp_path):
    assert "runs/\\udcff" in page_of(report_content() | {"checkpoint": "runs/\udcff"}, tmp_path).text


@pytest.mark.parametrize("write", [write_html, lambda report, path: write_comparison_html({"runs": [report | {"name": "a"}]}, path)])
def test_nothing_is_loaded_from_elsewhere(tmp_path, write):
    write(report_content(), tmp_path / "page.html")
    page, content = Page(tmp_path / "page.html"), (tmp_path / "page.html").read_text(encoding="utf-8")
    # The name of SVG is an address that nobody visits.
    assert re.findall(r"https?://[^\s\"']*", content) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\b|innerHTML|eval\(", content)
    assert page.count("script") == 2
    links = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all(link == "data:," or link.startswith("#") for link in links)
    policies = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]


def test_a_large_model_makes_a_page_of_bounded_size(tmp_path):
    page_of(report_content(32, 64, top_k=8), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 4_000_000


def test_parts_without_data_are_absent(tmp_path):
    sections = {"load", "training", "specialisation", "structure", "cause", "text"}
    assert sections <= page_of(report_content(), tmp_path).ids()
    page = page_of(without_parts(), tmp_path)
    assert sections & page.ids() == {"load"}
    assert "Keep in mind" not in page.text
    assert not sections & page_of(without_parts() | {"layers": [], "mean": {}}, tmp_path).ids()


@pytest.mark.parametrize("missing", [None, math.nan])
def test_missing_numbers_are_a_dash(tmp_path, missing):
    text = page_of(report_content() | {"loss": missing, "perplexity": missing, "split": None}, tmp_path).words()
    assert "Loss – nats per token" in text
    assert "Perplexity –" in text
    assert "Text stdlib Tokens" in text


def test_layers_of_different_width_are_told(tmp_path):
    report = report_content()
    report["layers"][0] = report_content(1, 4)["layers"][0]
    assert "Experts per layer 4–8" in page_of(report, tmp_path).words()


def test_a_comparison_holds_every_run(tmp_path):
    runs = [report_content(seed=seed) | {"name": f"<b>run {seed}", "notes": [f"note {seed}"]} for seed in range(3)]
    write_comparison_html({"runs": runs, "files": []}, tmp_path / "comparison.html")
    page = Page(tmp_path / "comparison.html")
    assert page.count("b") == 0
    assert "3 runs side by side" in page.text
    assert [f"<b>run {seed}: note {seed}" in page.text for seed in range(3)] == [True] * 3
    data = json.loads(page.data)
    assert [run["name"] for run in data["runs"]] == [run["name"] for run in runs]
    assert data["runs"][2]["layers"][0]["load"] == pytest.approx(runs[2]["layers"][0]["load"], rel=1e-4)
    assert "specialisation" not in data["runs"][0]
    assert "do not compare" not in page.text
    write_comparison_html({"runs": [*runs, runs[0] | {"corpus": "another"}], "files": []}, tmp_path / "comparison.html")
    assert "Losses on different texts or tokenizers do not compare." in Page(tmp_path / "comparison.html").text
