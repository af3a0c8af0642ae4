"""Load heatmaps beside each other: of checkpoints, of runs. One scale for all."""

from __future__ import annotations

import numpy as np

from moecli.reports.checkpoints import draw_checkpoints
from moecli.reports.comparison import draw_comparison
from tests.reports.figures import cells, collisions, drawn, panels, small_print
from tests.reports.report_content import report_content


def test_each_checkpoint_has_its_loads():
    report = report_content(2, 4)
    figure = drawn(draw_checkpoints, report)
    for axes, checkpoint in zip(panels(figure), report["checkpoints"], strict=True):
        assert np.allclose(cells(axes), [[4 * share for share in layer["load"]] for layer in checkpoint["layers"]])
        assert axes.get_title() == f"step {checkpoint['step']}, mean CV 0.30"


def test_of_many_checkpoints_six_are_shown():
    """10 checkpoints: places 0, 1.8, 3.6, 5.4, 7.2, 9."""
    report = report_content(2, 4)
    report["checkpoints"] = [report["checkpoints"][0] | {"step": 1000 * number} for number in range(10)]
    figure = drawn(draw_checkpoints, report)
    assert [axes.get_title().removesuffix(", mean CV 0.30") for axes in panels(figure)] == [
        "step 0", "step 2,000", "step 4,000", "step 5,000", "step 7,000", "step 9,000",
    ]  # fmt: skip
    assert "shown: 6 of 10 checkpoints" in small_print(figure)


def test_runs_are_on_one_scale_with_their_names_and_figures():
    runs = [{"name": name} | report_content(2, num_experts) for name, num_experts in (("runs/even", 4), ("runs/" + "x" * 60 + "/last", 6))]
    runs[0] |= {"loss": 2.5, "notes": ["a note of one", "a note of both"]}
    runs[1] |= {"loss": None, "notes": ["a note of both"], "checkpoint": "elsewhere"}
    figure = drawn(draw_comparison, {"runs": runs})
    for axes, run in zip(panels(figure), runs, strict=True):
        assert np.allclose(cells(axes), [[run["layers"][0]["num_experts"] * share for share in layer["load"]] for layer in run["layers"]])
        assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (0.0, 2.0)
    assert panels(figure)[0].get_title() == f"runs/even\nstdlib (validation)\nloss 2.500 nats/token, CV {runs[0]['mean']['cv_load']:.2f}"
    assert panels(figure)[1].get_title().startswith("runs/xxxxxxxxx…xxxxxxxx/last\nstdlib (validation)\nloss unknown, CV")
    said = small_print(figure)
    assert "runs/even: a note of one" in said and said.count("a note of both") == 1
    assert "elsewhere on stdlib (validation)" in said and "do not compare" not in said
    runs[1]["corpus"] = "another"
    assert "losses on different texts or tokenizers do not compare" in small_print(drawn(draw_comparison, {"runs": runs}))
    assert not collisions(figure)
