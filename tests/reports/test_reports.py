"""Every file that a report can have: written for every size, readable as what it is, and left out where its part of the report is."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib.image
import pytest
from matplotlib import rcParams

from moecli.analysis.load_report import LoadCollector
from moecli.reports import COMPARISON_REPORTS, REPORTS, TRAINING_REPORTS, write_comparison, write_reports
from moecli.reports.ablation import draw_ablation, draw_ablation_by_load
from moecli.reports.checkpoints import draw_checkpoints
from moecli.reports.coactivation import draw_coactivation
from moecli.reports.communication import draw_communication
from moecli.reports.comparison import draw_comparison
from moecli.reports.consistency import draw_consistency
from moecli.reports.dropped import draw_dropped
from moecli.reports.heatmap import draw_heatmap
from moecli.reports.paths import draw_paths
from moecli.reports.picture import PAGE_INCHES
from moecli.reports.saturation import draw_saturation
from moecli.reports.specialisation import draw_specialisation
from moecli.reports.training import draw_training
from tests.analysis.test_load_report import record_of
from tests.reports.figures import collisions, drawn, small_print, texts
from tests.reports.report_content import report_content

SIZES = [(1, 2), (3, 8), (32, 64), (2, 128)]
PICTURES = {
    "load": draw_heatmap,
    "specialisation": lambda report: draw_specialisation(report, report["specialisation"][0]),
    "coactivation": draw_coactivation,
    "paths": draw_paths,
    "consistency": draw_consistency,
    "dropped": draw_dropped,
    "training": draw_training,
    "communication": draw_communication,
    "checkpoints": draw_checkpoints,
    "saturation": draw_saturation,
    "ablation": draw_ablation,
    "ablation-by-load": draw_ablation_by_load,
}
# The inches of A4 between its margins.
PAPER_HEIGHT = 10.2


def every_file(num_layers: int) -> list[str]:
    """Of a report that has all parts; one layer has no paths."""
    specialisations = [f"specialisation-{label}" for label in ("domain", "position")]
    stems = [stem for name in PICTURES for stem in (specialisations if name == "specialisation" else [name])]
    tables = [name for name in REPORTS if name.endswith(".csv")]
    names = ["report.html", *(f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")), *tables]
    return [name for name in names if num_layers > 1 or not name.startswith(("paths", "transitions"))]


@pytest.mark.parametrize(("num_layers", "num_experts"), SIZES)
def test_every_file_is_written_and_valid(tmp_path, num_layers, num_experts):
    names = write_reports(report_content(num_layers, num_experts), tmp_path)
    assert names == every_file(num_layers)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for path in tmp_path.iterdir():
        if path.suffix == ".png":
            height, width, _ = matplotlib.image.imread(path).shape
            assert height > 300 and width > 800
        elif path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            assert rows and {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(("num_layers", "num_experts"), SIZES)
def test_texts_are_large_enough_on_a_page_and_do_not_touch(name, num_layers, num_experts):
    if name == "paths" and num_layers == 1:
        return
    figure = drawn(PICTURES[name], report_content(num_layers, num_experts))
    assert not collisions(figure)
    assert min(text.get_fontsize() for text in texts(figure)) >= 7
    assert figure.get_figwidth() <= PAGE_INCHES and figure.get_figheight() <= PAPER_HEIGHT
    assert figure.get_facecolor() == (1, 1, 1, 1)


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_says_what_it_is_of_and_what_to_know(name):
    said = small_print(drawn(PICTURES[name], report_content() | {"notes": ["this model sees the future"]}))
    assert "runs/first/checkpoints/step-600 on stdlib (validation), 75,123 tokens" in said
    assert "this model sees the future" in said


def test_notes_on_labels_are_on_pictures_of_labels_and_structure_alone():
    report = report_content() | {"notes": ["the model leaks", "few documents"], "model_notes": ["the model leaks"]}
    said = {name: small_print(drawn(draw, report)) for name, draw in PICTURES.items()}
    assert all("the model leaks" in words for words in said.values())
    assert {name for name, words in said.items() if "few documents" in words} == {"specialisation", "coactivation", "paths", "consistency"}


def test_one_choice_per_token_has_no_coactivation():
    report = report_content(top_k=1)
    assert [name for name, entry in REPORTS.items() if not entry.applies(report)] == ["coactivation", "coactivation.csv"]


def test_parts_that_are_not_there_are_not_drawn(tmp_path):
    missing = {"specialisation": [], "vocabulary": [], "coactivation": [], "consistency": [], "checkpoints": [], "saturation": []}
    report = report_content() | missing | {"paths": None, "training": None, "communication": None, "ablation": None, "position_starts": []}
    for layer in report["layers"]:
        layer["dropped_by_position"] = []
    assert write_reports(report, tmp_path) == ["report.html", "load.png", "load.svg", "layers.csv", "load.csv"]


def test_figures_that_are_not_known_are_drawn_as_missing(tmp_path, monkeypatch):
    """Every measured number is None but for the paths, which are counted."""
    monkeypatch.delitem(REPORTS, "report.html")
    names = write_reports(without_floats(report_content(2, 4)) | {"paths": report_content(2, 4)["paths"]}, tmp_path)
    assert set(every_file(2)) - set(names) == {"report.html", "dropped.png", "dropped.svg"}


def test_equal_reports_give_equal_files(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write_reports(report_content(2, 4, seed=3), tmp_path / folder)
    files = sorted((tmp_path / "first").iterdir())
    assert len(files) == len(every_file(2))
    assert [path.name for path in files if path.read_bytes() != (tmp_path / "second" / path.name).read_bytes()] == []


def test_labels_of_a_text_are_shown_as_they_are(tmp_path):
    report = report_content()
    report["specialisation"][0] |= {"label": "a/b $x^2$", "values": ["$x^2$", "<b>&amp;", "_a_{b}", "new\nline"]}
    report["notes"] = ["$\\alpha$ is no letter"]
    names = REPORTS["specialisation"].write(report, tmp_path, "specialisation")
    assert names[:2] == ["specialisation-a-b-x-2.png", "specialisation-a-b-x-2.svg"]
    picture = ElementTree.parse(tmp_path / "specialisation-a-b-x-2.svg").getroot()
    said = {"".join(element.itertext()) for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    counts = ("1,000", "2,000", "3,000", "4,000")
    assert {f"{value} ({count})" for value, count in zip(("$x^2$", "<b>&amp;", "_a_{b}", "new\\nline"), counts, strict=True)} <= said
    assert {"Specialisation by a/b $x^2$", "$\\alpha$ is no letter"} <= {line for text in said for line in text.splitlines()}


def test_labels_that_are_one_file_name_get_two_files(tmp_path):
    report = report_content()
    for entry, label in zip(report["specialisation"], ("the label", "The:label"), strict=True):
        entry["label"] = label
    names = REPORTS["specialisation"].write(report, tmp_path, "specialisation")
    assert [name for name in names if name.endswith(".png")] == ["specialisation-the-label.png", "specialisation-The-label-2.png"]


@pytest.mark.parametrize("letter", ["x", "日", "\U00020000"])
def test_a_long_label_gives_a_file_name_that_fits(tmp_path, letter):
    report = report_content()
    for entry in report["specialisation"]:
        entry["label"] = letter * 400
    names = write_reports(report, tmp_path)
    assert len([name for name in names if letter * 40 in name and (tmp_path / name).is_file()]) == 4


def test_nothing_of_matplotlib_is_left_changed(tmp_path):
    before = dict(rcParams)
    write_reports(report_content(1, 2), tmp_path)
    assert dict(rcParams) == before


def test_the_settings_of_the_user_change_no_picture(tmp_path):
    write = REPORTS["load"].write
    write(report_content(), tmp_path, "as-usual")
    old = {key: rcParams[key] for key in ("font.size", "axes.grid", "savefig.dpi")}
    rcParams.update({"font.size": 31.0, "axes.grid": True, "savefig.dpi": 30})
    try:
        write(report_content(), tmp_path, "with-settings")
    finally:
        rcParams.update(old)
    assert (tmp_path / "as-usual.png").read_bytes() == (tmp_path / "with-settings.png").read_bytes()


def test_a_new_report_is_one_line(tmp_path, monkeypatch):
    from moecli.reports import has, table

    monkeypatch.setitem(REPORTS, "tokens.csv", table(lambda report: [{"tokens": report["tokens"]}], "tokens"))
    assert write_reports(report_content(1, 2), tmp_path)[-1] == "tokens.csv"
    assert (tmp_path / "tokens.csv").read_text() == "tokens\n75123\n"
    assert not has("tokens")({"tokens": 0})


@pytest.mark.parametrize("name", TRAINING_REPORTS)
def test_a_training_draws_its_load_report(tmp_path, name):
    import torch

    collector = LoadCollector()
    collector.add([None, record_of(torch.full((4, 2), 0.5), [0, 0, 0, 1])])
    content = json.loads(json.dumps(collector.report().to_json())) | {"notes": ["a note"]}
    TRAINING_REPORTS[name](content, tmp_path / name)
    assert matplotlib.image.imread(tmp_path / name).size > 1000


def test_runs_side_by_side(tmp_path):
    runs = [{"name": f"runs/{number}"} | report_content(number + 1, 2**number, seed=number) for number in range(1, 5)]
    names = write_comparison({"runs": runs}, tmp_path)
    assert names == ["comparison.html", "comparison.png", "comparison.svg", "comparison.csv"]
    assert list(COMPARISON_REPORTS) == ["comparison.html", "comparison", "comparison.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert not collisions(drawn(draw_comparison, {"runs": runs}))


def without_floats(content: Any) -> Any:
    """None instead of every number that is no count."""
    if isinstance(content, dict):
        return {key: without_floats(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_floats(value) for value in content]
    return None if isinstance(content, float) else content
