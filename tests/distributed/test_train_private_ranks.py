"""Two ranks train privately through the command line, also where ranks must keep in step, and share one ledger."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3])
def test_two_ranks_train_privately(stage: int, start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "engine": {"zero_stage": stage, "precision": "bf16"}, "preconditioner": {"kind": "edm"},
        "optimiser": {"gradient_clip": 0.0}, "stopping": {"max_steps": 4, "min_steps": 4}, "data": {"batch_size": 2},
        "privacy": {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3, "views": 2, "accountant": "rdp"},
    }  # fmt: skip
    process = start("two", 2, **sections)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    run = tmp_path / "runs" / "two"
    ledger = json.loads((run / "privacy_ledger.json").read_text())
    assert [(entry["scope"], entry["steps"]) for entry in ledger["entries"]] == [("0", 4), ("1", 4)]
    assert 0.0 < ledger["epsilon"] <= 6.0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and all(line["gradient_norm"] > 0.0 for line in lines)
