"""A time limit holds in the main thread and in others, and reaches nothing behind its body."""

import threading
import time
from collections.abc import Callable

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from deepcuts.components.core import deadline
from deepcuts.components.core.deadline import within


class Slow(Exception):
    """The limit's own error."""


def loop(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def swallow() -> None:
    """As jinja2's optimizer does: whatever is raised while a constant is folded, it is evaluated again."""
    try:
        loop(20)
    except BaseException:
        loop(20)


def here(action: Callable[[], None]) -> None:
    action()


def in_thread(action: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


BOTH = pytest.mark.parametrize("run", [here, in_thread])


@BOTH
@pytest.mark.parametrize("slow", [lambda: loop(20), swallow], ids=["a loop", "swallowed once"])
def test_what_takes_too_long_ends_with_the_limits_error(run, slow, monkeypatch):
    monkeypatch.setattr(deadline, "AGAIN_SECONDS", 0.2)

    def limited() -> None:
        with within(0.2, Slow()):
            slow()

    begun = time.process_time()
    with pytest.raises(Slow):
        run(limited)
    assert time.process_time() - begun < 5


def test_constant_that_takes_for_ever_to_fold_is_interrupted():
    """Jinja2 catches what is raised while it folds constants, and evaluates them again."""
    begun = time.process_time()
    with pytest.raises(Slow), within(0.2, Slow()):
        ImmutableSandboxedEnvironment().from_string("{{ 9 ** (9 ** 9) > 1 }}").render()
    assert time.process_time() - begun < 5


@BOTH
def test_what_waits_is_not_late(run):
    """A busy machine is no fault of the body's."""

    def limited() -> None:
        with within(0.2, Slow()):
            time.sleep(0.5)

    run(limited)


@BOTH
def test_inner_limit_leaves_the_one_around_it(run):
    def limited() -> None:
        with within(0.5, Slow("outer")):
            with pytest.raises(Slow, match="inner"), within(0.1, Slow("inner")):
                loop(20)
            loop(20)

    with pytest.raises(Slow, match="outer"):
        run(limited)


@BOTH
def test_block_that_ends_as_the_limit_rings_is_not_followed_by_an_alarm(run):
    """Limits and work of 0 to 2 ms: some let the alarm come with the last instruction of the body."""

    def limited() -> None:
        for number in range(300):
            try:
                with within(0.001, Slow()):
                    loop(0.002 * number / 300)
            except Slow:
                continue
            loop(0.0005)

    run(limited)
    assert not any(thread.name == "time limit" and thread.is_alive() for thread in settled())


def settled() -> list[threading.Thread]:
    time.sleep(0.1)
    return threading.enumerate()
