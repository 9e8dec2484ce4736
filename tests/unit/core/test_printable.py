"""Names that other people gave to files cannot do anything to a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from volgen import cli
from volgen.core import progress
from volgen.core.errors import UserError
from volgen.core.printable import printable

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202egnp.\u2066\udcff\x7f"


@pytest.mark.parametrize("text", ["scan of Ångström", "\u0646\u0627\u0645\u0647\u200c\u0647\u0627", "脑部 扫描", "a\tb\nc"])
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


def test_whatever_a_terminal_obeys_becomes_an_escape() -> None:
    shown = printable(EVIL)
    assert shown.isprintable() and shown.isascii()
    assert shown == r"a\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202egnp.\u2066\udcff\x7f"
    assert printable("a\nerror: b", keep="") == r"a\nerror: b"


def test_errors_are_one_line_that_shows_no_escapes() -> None:
    error = UserError(EVIL, "is a\nforged line", EVIL, EVIL)
    assert str(error).isprintable()
    assert error.where == EVIL, "programs get what it was"


def test_messages_and_progress_show_no_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    for terminal in (True, False):
        monkeypatch.setattr(progress, "console", Console(file=shown, force_terminal=terminal, width=400, color_system=None))
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
        progress.say(f"left out: {EVIL}")
        with progress.progress("ingest", 2) as ticker:
            ticker.advance(note=f"{EVIL}[/][bold]")
    text = shown.getvalue()
    assert text.count(r"\x1b]0;owned\x07") >= 3
    assert not any(bad in text for bad in ("\x1b]0;", "\x1b[2J", "\x9b", "\u202e", "\u2066", "\x07", "\udcff"))


def test_an_error_of_the_system_shows_its_place_and_no_escapes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device", f"/data/{EVIL}")

    monkeypatch.setattr("volgen.commands.cohort.run", fail)
    assert cli.main(["cohort", "x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(r"error: /data/a\x1b]0;owned") and "No space left on device. Make room on that file system" in error
    assert error.rstrip("\n").isprintable()
