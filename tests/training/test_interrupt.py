# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
import threading

import pytest

from denseg.errors import InterruptedRunError, OutputError
from denseg.training.interrupt import StopRequest, catch_signals, stoppable


def test_a_signal_stops_at_once_where_nothing_is_deferred() -> None:
    with pytest.raises(KeyboardInterrupt), catch_signals():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_deferred_signal_is_a_request(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with catch_signals() as stop:
        with stop.deferred():
            assert not stop
            os.kill(os.getpid(), getattr(signal, name))
            assert stop
            assert stop.requested == name
        assert stop
    assert capfd.readouterr().err == "\nstopping after this step; Ctrl-C again stops at once\n"


def test_a_second_signal_stops_at_once() -> None:
    with catch_signals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back_and_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    seen: list[StopRequest] = []

    def work() -> None:
        with catch_signals() as stop:
            seen.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(seen) == 1
    assert not seen[0]


def break_off(error: Exception | None) -> None:
    """A signal comes, and a library makes another error of it."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        if error is None:
            raise
        raise error from None


@pytest.mark.parametrize("became", [None, RuntimeError("half an import"), ValueError("a short read")])
def test_a_stop_is_told_as_one_whatever_became_of_it(became: Exception | None) -> None:
    with pytest.raises(InterruptedRunError) as caught, stoppable("stopped; go on"):
        break_off(became)
    assert str(caught.value) == "stopped; go on"


def test_a_fault_without_a_signal_and_a_full_disk_stay_themselves() -> None:
    with pytest.raises(ValueError, match="wrong"), stoppable("stopped"):
        raise ValueError("wrong")
    with pytest.raises(OutputError, match="full"), stoppable("stopped"):
        break_off(OutputError("full"))
