"""metrics.jsonl keeps whole lines up to the checkpoint and reads floats back bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.errors import RunError
from moecli.training.metric_log import MetricLog, read_metrics


def test_lines_after_the_checkpoint_and_a_cut_off_line_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.5}\n{"step": 2, "loss": 3.25}\n{"step": 3, "lo')
    log = MetricLog(path, last_step=1)
    log.append({"step": 2, "loss": 0.1})
    assert read_metrics(path) == [{"step": 1, "loss": 3.5}, {"step": 2, "loss": 0.1}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_log_begins_empty(tmp_path):
    MetricLog(tmp_path / "metrics.jsonl", last_step=0)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"loss": 1}', '{"step": "1"}', '{"step": -1}', '{"step": true}', '{"step": 1.0}'])
def test_a_line_that_is_no_metrics_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2: not a line of metrics"):
        MetricLog(path, last_step=5)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_named(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(RunError, match=r"metrics\.jsonl: can't be read: (a folder|no regular file), where a file belongs"):
        read_metrics(tmp_path / "metrics.jsonl")


@given(st.floats(allow_nan=False))
def test_floats_read_back_bit_for_bit(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    MetricLog(path, last_step=0).append({"step": 1, "loss": value})
    assert read_metrics(path)[0]["loss"] == value
