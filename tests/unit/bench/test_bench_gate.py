"""The regression gate: exit code 1 when a ratio falls behind an earlier run's, 2 when the two cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from volgen.bench import store as benchmark
from volgen.cli import main
from volgen.commands.bench.gate import read_reference, regressions
from volgen.commands.bench.result import Row, row
from volgen.core.errors import UserError


def rows(fast: float, peak: float) -> list[Row]:
    slow = Row("slow", 2.0, "per s")
    return [
        slow,
        row("fast", fast, "per s", slow, better="higher"),
        row("peak", peak, "MiB", slow, better="lower"),
        row("other", fast, "", slow),
    ]


@pytest.mark.parametrize(
    ("fast", "peak", "worse"),
    [
        (10, 3, []),
        (6.01, 4.99, []),
        (5.99, 3, ["fast / slow"]),
        (10, 5.01, ["peak / slow"]),
        (20, 1, []),
        (float("nan"), 3, ["fast / slow"]),
    ],
)
def test_a_ratio_may_lose_the_margin_and_no_more(fast: float, peak: float, worse: list[str]) -> None:
    reference = [entry for entry in rows(10, 3) if entry.better]
    assert [line.partition(":")[0] for line in regressions(rows(fast, peak), reference, 0.4)] == worse


def test_a_row_that_is_gone_is_a_regression() -> None:
    (line,) = regressions(rows(10, 3)[:2], [entry for entry in rows(10, 3) if entry.better], 0.4)
    assert line == "peak / slow: is not measured any more, was 1.5"


def test_the_command_compares_with_the_file_that_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "run", lambda config: rows(10.0, 3.0))
    monkeypatch.delattr(benchmark, "table")
    out, command = tmp_path / "out.json", ["bench", "store", "cohort.zarr"]
    assert main([*command, "--out", str(out)]) == 0
    assert [entry.get("better") for entry in json.loads(out.read_text())["rows"]] == [None, "higher", "lower", None]
    assert main([*command, "--against", str(out)]) == 0
    assert "0 of 2 ratios" in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "run", lambda config: rows(7.0, 3.0))
    assert main([*command, "--against", str(out)]) == 0
    assert main([*command, "--against", str(out), "--margin", "0.1"]) == 1
    assert "fast / slow: 3.5, was 5, allowed is at least 4.5" in capsys.readouterr().out
    assert main([*command, "--against", str(out), "--margin", "1"]) == 2
    assert main([*command, "--repeats", "7", "--against", str(out)]) == 2
    assert "repeats is 5 there and 7 here" in capsys.readouterr().err


def test_what_is_no_reference_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    with pytest.raises(UserError, match="no such file"):
        read_reference(path, "store", {})
    path.write_text('{"benchmark": "plan", "settings": {}, "rows": []}')
    with pytest.raises(UserError, match="of benchmark 'plan'"):
        read_reference(path, "store", {})
    with pytest.raises(UserError, match="no ratio"):
        read_reference(path, "plan", {})
    path.write_text('{"benchmark": "plan", "settings": {}, "rows": [{"better": "higher"}]}')
    with pytest.raises(UserError, match="another form"):
        read_reference(path, "plan", {})
    path.write_text('{"benchmark": "plan", "settings": null, "rows": []}')
    with pytest.raises(UserError, match="no settings"):
        read_reference(path, "plan", {})
