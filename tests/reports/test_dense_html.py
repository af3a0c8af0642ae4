"""The page of a comparison with dense twins: verdicts and notes first, every part that there is, and no word that leaves its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from moecli.reports.html import write_dense_comparison_html
from tests.reports.dense_content import dense_content, unknown_figures
from tests.reports.test_html import HOSTILE, Page

SECTIONS = {"curves", "finals", "quality", "cost", "matching", "routing", "runs", "how"}


def page_of(content: dict, folder: Path) -> Page:
    write_dense_comparison_html(content, folder / "page.html")
    return Page(folder / "page.html")


@pytest.mark.parametrize("loses", [False, True])
def test_the_verdicts_come_first_whichever_they_are(tmp_path, loses):
    content = dense_content(loses=loses) | {"notes": ["quickstart: this model sees its future"]}
    words = page_of(content, tmp_path).words()
    marks = {"lower": "lower loss", "higher": "higher loss", "undecided": "undecided"}
    for comparison in content["comparisons"]:
        assert f"{marks[comparison['verdict']]} {comparison['sentence']}" in words
    assert ("higher" if loses else "lower") in {comparison["verdict"] for comparison in content["comparisons"]}
    assert "Keep in mind quickstart: this model sees its future" in words
    assert words.index("Keep in mind") < words.index("Curves")


def test_the_page_holds_the_comparison(tmp_path):
    content = dense_content()
    data = json.loads(page_of(content, tmp_path).data)
    assert data["arms"][1]["val_loss"]["mean"] == pytest.approx(content["arms"][1]["val_loss"]["mean"], rel=1e-4)
    assert data["arms"][1]["curve"]["flops"] == content["arms"][1]["curve"]["flops"]
    assert data["comparisons"][0]["difference"]["ci95"] == pytest.approx(content["comparisons"][0]["difference"]["ci95"], rel=1e-4)


def test_parts_without_data_are_absent(tmp_path):
    assert page_of(dense_content(), tmp_path).ids() >= SECTIONS
    page = page_of(unknown_figures(dense_content(1)) | {"matches": [], "notes": []}, tmp_path)
    assert SECTIONS - page.ids() == {"matching", "routing"}
    assert "These models cannot generate." in page.words()
    assert "one seed has no interval" in page.words() and "Keep in mind “" not in page.words()


def test_without_twins_no_word_is_said_of_them(tmp_path):
    content = dense_content() | {"matches": []}
    page = page_of(content, tmp_path)
    assert "quickstart against 3 other models" in page.words()
    assert "twin" not in page.words()
    assert "A twin differs from the base" in page_of(dense_content(), tmp_path).words()


def test_generation_is_told_as_it_was_done(tmp_path):
    assert "with a cache of keys and values but for arms that see their future" in page_of(dense_content(), tmp_path).words()


def test_bits_per_byte_say_why(tmp_path):
    content = dense_content() | {"measure": "bits_per_byte", "unit": "bits/byte"}
    assert "In bits/byte, as the arms don’t share text or tokenizer" in page_of(content, tmp_path).words()
    assert "don’t share text" not in page_of(dense_content(), tmp_path).words()


def test_hostile_words_stay_text(tmp_path):
    content = dense_content() | {"base": HOSTILE, "notes": [HOSTILE], "corpus": HOSTILE, "split": HOSTILE, "device": HOSTILE}
    content["arms"][0] |= {"name": HOSTILE, "source": HOSTILE, "run_dirs": [HOSTILE] * 3}
    content["comparisons"][0]["sentence"] = f"a\u202e{HOSTILE}"
    page = page_of(content, tmp_path)
    assert (page.count("script"), page.count("img"), page.count("b")) == (2, 0, 0)
    assert not set("<>&'") & set(page.data)
    assert json.loads(page.data)["arms"][0]["name"] == HOSTILE
    assert f"a\\u202e{HOSTILE}" in page.text


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = page_of(dense_content(), tmp_path)
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\s\"']*", source) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\b|innerHTML|eval\(", source)
    links = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all(link == "data:," or link.removeprefix("#") in page.ids() for link in links)
