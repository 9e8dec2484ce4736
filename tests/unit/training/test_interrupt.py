from __future__ import annotations

import os
import signal
import time

import pytest

from volgen.training.interrupt import Interrupt, Interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 85), (signal.SIGUSR1, 85)])
def test_the_first_signal_is_a_flag(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert interrupt.received == 0
        os.kill(os.getpid(), number)
        assert interrupt.received == number
        assert Interrupted(interrupt.received).exit_code == code
    assert signal.getsignal(number) == before


def test_a_ctrl_c_that_a_launcher_passes_on_is_the_same_one_and_a_later_one_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        now += 0.5
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received == signal.SIGINT
        now += 5.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_repeated_sigterm_does_not_cut_a_checkpoint_short(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Interrupt() as interrupt:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            now += 10.0
        assert interrupt.received == signal.SIGTERM


def test_a_launcher_that_died_counts_as_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    with Interrupt(watch_parent=True) as watching, Interrupt() as alone:
        assert watching.received == 0
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert watching.received == signal.SIGTERM
        assert alone.received == 0
