"""The comparison behind docs/plan.md runs on its smallest case, and what it says follows from its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from volgen.bench import plan
from volgen.cli import main


@pytest.mark.parametrize(("step", "steps"), [(0.05, 61), (0.5, 13), (2.0, 4), (100.0, 3)])
def test_short_steps_are_timed_many_times(step: float, steps: int) -> None:
    assert plan.steps_to_time(step) == steps


def test_the_run_whose_peak_counts_takes_steps_after_a_validation_and_after_a_checkpoint() -> None:
    assert 0 < plan.VALIDATE < plan.SAVE < plan.STEPS


@pytest.mark.slow
def test_the_smallest_case_is_planned_as_it_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    assert main(["bench", "plan", "--out", str(out), "--cases", "1"]) == 0
    rows = {row["name"]: row["value"] for row in json.loads(out.read_text())["rows"]}
    name = plan.CASES[0].name
    assert rows[f"{name}: predicted peak"] == pytest.approx(rows[f"{name}: peak"], rel=0.15)
    assert rows[f"{name}: predicted step"] == pytest.approx(rows[f"{name}: step"], rel=0.25)
    ratio = rows[f"{name}: predicted peak"] / rows[f"{name}: peak"]
    assert f" {ratio:.3f} |" in capsys.readouterr().out
