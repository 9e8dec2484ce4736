from __future__ import annotations

import os
import signal

import pytest

from volgen.training.interrupt import Interrupt, Interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert interrupt.received == 0
        os.kill(os.getpid(), number)
        assert interrupt.received == number
        assert Interrupted(interrupt.received).exit_code == 128 + number
    assert signal.getsignal(number) == before


def test_the_second_ctrl_c_is_not_held_back() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupt():  # noqa: PT012 (both signals belong to the test)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_launcher_that_died_counts_as_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    with Interrupt(watch_parent=True) as watching, Interrupt() as alone:
        assert watching.received == 0
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert watching.received == signal.SIGTERM
        assert alone.received == 0
