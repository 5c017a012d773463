import time

from deepcuts.components.core.long_calls import filling, working
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


def test_a_brief_log_says_nothing_of_short_work_and_the_end_of_long_work():
    for end, heard in ((4.0, []), (9.0, ["100%  10 of 10 rows"])):
        clock, said = iter([0.0, 2.0, end]), []
        progress = ProgressLog(10, "rows", 5.0, lambda clock=clock: next(clock), said.append, brief=True)
        progress(5)
        progress(10)
        assert said == heard


def test_what_is_kept_of_an_earlier_attempt_is_added_without_its_time():
    clock, said = iter([0.0, 1.0, 10.0]), []
    progress = ProgressLog(100, "scores", 5.0, lambda: next(clock), said.append)
    progress.add(50, free=50)
    progress.add(10)
    assert said == ["60%  60 of 100 scores  40 s left"]


def test_a_call_that_says_nothing_is_said_to_go_on_until_it_ends():
    said = []
    with working("loading", 0.02, said.append):
        time.sleep(0.1)
    count = len(said)
    time.sleep(0.06)
    assert count >= 2 and said[0] == "loading, 0 s so far" and len(said) == count


def test_a_file_that_is_written_says_how_far_it_is(tmp_path):
    said = []
    with filling(tmp_path / "model.gguf", 1000, "bytes converted", 0.02, said.append):
        time.sleep(0.05)  # nothing is there yet
        (tmp_path / "model.gguf").write_bytes(b"x" * 400)
        time.sleep(0.1)
        (tmp_path / "model.gguf").write_bytes(b"x" * 1200)  # the total was an estimate
        time.sleep(0.05)
    assert said[0].startswith("40%  400 of 1,000 bytes converted") and said[-1].startswith("100%")
