"""Remaining time of a comparison, on a clock that is set by hand."""

from __future__ import annotations

from moecli.workflows.compare_progress import ComparisonProgress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_promised_before_anything_was_measured():
    progress = ComparisonProgress({"moe": 100.0, "dense": 100.0}, [("moe", 0.0), ("dense", 0.0)], Clock())
    done = progress.work_done()
    assert (done.done, done.total, done.seconds_left) == (0, 200, None)


def test_an_arm_that_has_not_run_is_judged_by_flops_and_then_by_its_own_speed():
    clock = Clock()
    progress = ComparisonProgress({"moe": 100.0, "dense": 300.0}, [("moe", 0.0), ("dense", 0.0), ("moe", 0.0), ("dense", 0.0)], clock)
    progress.begin(0)
    clock.now = 10.0
    progress.reaches(0.5)
    # 50 FLOPs took 10 s: 750 more take 150 s.
    assert progress.work_done().seconds_left == 150
    clock.now = 20.0
    progress.reaches(1.0)
    progress.begin(1)
    clock.now = 50.0
    progress.reaches(0.5)
    # The dense one has done 150 FLOPs in 30 s, 0.2 s each: 450 left make 90 s. The moe has 100 left at 0.2 s: 20 s.
    done = progress.work_done()
    assert (done.done, done.total, done.seconds_left) == (250, 800, 110)


def test_arms_of_different_speed_are_not_mixed():
    clock = Clock()
    progress = ComparisonProgress({"moe": 100.0, "dense": 100.0}, [("moe", 0.0), ("dense", 0.0), ("moe", 0.0), ("dense", 0.0)], clock)
    for number, seconds in ((0, 30.0), (1, 10.0)):
        progress.begin(number)
        clock.now += seconds
        progress.reaches(1.0)
    assert progress.work_done().seconds_left == 30 + 10


def test_what_was_done_before_counts_as_done_and_not_as_speed():
    clock = Clock()
    progress = ComparisonProgress({"moe": 100.0}, [("moe", 1.0), ("moe", 0.0), ("moe", 0.0)], clock)
    progress.begin(1)
    progress.goes_on_from(0.75)
    assert (progress.work_done().done, progress.work_done().seconds_left) == (175, None)
    clock.now = 5.0
    progress.reaches(0.875)
    # 12.5 FLOPs in 5 s, 0.4 s each; 12.5 of this run and 100 of the next are left.
    assert progress.work_done().seconds_left == 45


def test_the_length_of_an_arm_may_become_known_on_the_way():
    progress = ComparisonProgress({"moe": 100.0, "time": 100.0}, [("moe", 1.0), ("time", 0.0)], Clock())
    progress.set_flops("time", 160.0)
    assert (progress.work_done().done, progress.work_done().total) == (100, 260)


def test_a_finished_comparison_has_no_time_left():
    progress = ComparisonProgress({"moe": 100.0}, [("moe", 1.0)], Clock())
    done = progress.work_done()
    assert (done.done, done.total, done.seconds_left) == (100, 100, 0)
