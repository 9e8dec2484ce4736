from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from volgen.core.errors import UserError
from volgen.training.run import PhaseRecord, check_same


def test_every_key_that_differs_is_named(tmp_path: Path) -> None:
    before = {"seed": 1, "data": {"workers": 2, "shape": [16, 16, 16]}, "optimiser": {"learning_rate": 1e-05, "betas": [0.9, 0.99]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(before))
    check_same(tmp_path, before)
    check_same(tmp_path, {**before, "data": {"workers": 7, "shape": [16, 16, 16]}})
    with pytest.raises(UserError, match=r"data\.shape was \[16, 16, 16\] and is now \[16, 16, 24\]; seed was 1 and is now 2"):
        check_same(tmp_path, {**before, "seed": 2, "data": {"workers": 2, "shape": [16, 16, 24]}})
    with pytest.raises(UserError, match=r"optimiser\.learning_rate"):
        check_same(tmp_path, {**before, "optimiser": {"learning_rate": 2e-05, "betas": [0.9, 0.99]}})


def test_a_phase_without_a_record_is_not_finished(tmp_path: Path) -> None:
    assert PhaseRecord.read(tmp_path) is None
    record = PhaseRecord(10, 8, 0.5, 100, "0" * 64)
    record.write(tmp_path)
    assert PhaseRecord.read(tmp_path) == record
    (tmp_path / "phase.json").write_text('{"steps": 3}')
    with pytest.raises(UserError, match="has another form"):
        PhaseRecord.read(tmp_path)
