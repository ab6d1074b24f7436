"""Signals as an exception: at once, after a unit, once for several, never where they were ignored."""

import signal
import threading

import pytest

from unbox import stopping as module
from unbox.stopping import SIGNALS, Stopped, consequences, stop_point, stopping, unit


def ended(work, *arguments):
    """The stop that `work` ended with, or None."""
    try:
        with stopping():
            work(*arguments)
    except Stopped as stop:
        return stop
    return None


@pytest.fixture
def done():
    return []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_is_raised_at_once_with_its_exit_code(number, code, done):
    def work():
        signal.raise_signal(number)
        done.append("went on")

    before = [signal.getsignal(each) for each in SIGNALS]
    stop = ended(work)
    assert (done, stop.code) == ([], code)
    assert isinstance(stop, KeyboardInterrupt)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_unit_is_finished_first_and_so_is_the_one_around_it(done):
    def work():
        with unit():
            with unit():
                signal.raise_signal(signal.SIGTERM)
                stop_point()
                done.append("inner")
            done.append("outer")
        done.append("went on")

    assert ended(work).code == 143
    assert done == ["inner", "outer"]


def test_after_the_last_unit_a_command_ends_as_finished(done):
    def work():
        with unit(last=True):
            signal.raise_signal(signal.SIGTERM)
            done.append("in it")
        signal.raise_signal(signal.SIGINT)
        stop_point()
        done.append("after it")

    assert ended(work) is None
    assert done == ["in it", "after it"]


def test_a_unit_that_fails_leaves_none_in_work():
    def work():
        with pytest.raises(ZeroDivisionError), unit(last=True):
            raise ZeroDivisionError
        signal.raise_signal(signal.SIGTERM)

    assert ended(work) is not None


def test_several_signals_at_a_time_are_one_stop_and_a_later_one_ends_a_unit(monkeypatch, done):
    def work():
        with unit():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("the same stop")
            monkeypatch.setattr(module, "SAME_STOP", -1)
            signal.raise_signal(signal.SIGINT)
            done.append("went on")

    assert ended(work).code == 130
    assert done == ["the same stop"]


class Loud:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_lost_in_a_destructor_is_raised_at_the_next_step(done):
    def work():
        Loud()
        done.append("lost")
        stop_point()
        done.append("went on")

    assert ended(work).code == 143
    assert done == ["lost"]


def test_what_is_ignored_stays_ignored(done):
    def work():
        signal.raise_signal(signal.SIGHUP)
        done.append(signal.getsignal(signal.SIGHUP))

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ended(work) is None
        assert done == [signal.SIG_IGN]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_threads_are_not_interrupted(done):
    def in_thread():
        with stopping(), unit():
            stop_point()
            done.append("done")

    def work():
        with unit():
            signal.raise_signal(signal.SIGTERM)
            thread = threading.Thread(target=in_thread)
            thread.start()
            thread.join()
            done.append(signal.getsignal(signal.SIGTERM).__name__)

    assert ended(work).code == 143
    assert done == ["done", "_receive"]


def test_an_inner_command_has_stops_of_its_own(done):
    def work():
        done.append(ended(signal.raise_signal, signal.SIGTERM).code)
        stop_point()

    assert ended(work) is None
    assert done == [143]


def test_a_collective_that_breaks_after_a_signal_is_a_stop():
    def broken():
        with consequences():
            raise RuntimeError("connection closed by peer")

    def work():
        with pytest.raises(RuntimeError):
            broken()
        with unit(last=True):
            signal.raise_signal(signal.SIGTERM)
        broken()

    assert ended(work).code == 143
