from deepcuts.components.core.progress import ProgressLog


def test_progress_says_how_much_is_done_and_what_time_is_left():
    clock, said = iter([0.0, 2.0, 6.0, 7.0, 12.0]), []
    progress = ProgressLog(100, "examples", 5.0, lambda: next(clock), said.append)
    for done in (10, 30, 40, 100):
        progress(done)
    assert said == ["30%  30 of 100 examples  14 s left", "100%  100 of 100 examples"]


def test_what_was_there_already_tells_nothing_about_the_speed():
    clock, said = iter([0.0, 10.0]), []
    ProgressLog(100, "examples", 5.0, lambda: next(clock), said.append)(60, free=50)
    assert said == ["60%  60 of 100 examples  40 s left"]


def test_counts_that_come_one_by_one_add_up():
    clock, said = iter([0.0, 2.0, 6.0, 7.0]), []
    progress = ProgressLog(30, "rows", 5.0, lambda: next(clock), said.append)
    for _ in range(3):
        progress.add(10)
    assert said == ["67%  20 of 30 rows  3 s left", "100%  30 of 30 rows"]


def test_without_a_known_total_what_is_done_is_said():
    clock, said = iter([0.0, 2.0, 6.0, 7.0]), []
    progress = ProgressLog(0, "rows", 5.0, lambda: next(clock), said.append)
    for _ in range(3):
        progress.add(1000)
    assert said == ["2,000 rows"]
