"""Ranks train a student as one process does, whoever holds its optimiser."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from volgen.commands.distil import Config
from volgen.commands.distil.distil import prepare
from volgen.commands.train.train import train
from volgen.recipe import load
from volgen.runs.trained import open_run

pytestmark = pytest.mark.distributed

Alone, Start = Callable[..., Path], Callable[..., subprocess.Popen[str]]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_train_the_student_of_one_process(stage: int, alone: Alone, start: Start, tmp_path: Path) -> None:
    """Sums over ranks round in another order: hence a tolerance."""
    teacher = alone()
    stopping = {"max_steps": 4, "min_steps": 4, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2}
    overrides: tuple[tuple[str, Any], ...] = tuple((f"stopping.{key}", str(value)) for key, value in stopping.items())
    asked = Config(run=teacher, name="alone", steps=2, runs=tmp_path / "runs", count=16, inner=1, device="cpu", overrides=overrides)
    store, student = prepare(asked)
    one = train(load(student))
    recipe = load(student).model_dump(mode="json", exclude_unset=True, serialize_as_any=True)
    sections = {key: value for key, value in recipe.items() if isinstance(value, dict)}
    process = start("ranks", 2, **{**sections, "engine": {**sections.get("engine", {}), "zero_stage": stage}})
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    two = tmp_path / "runs" / "ranks"
    assert open_run(two).recipe.data.store == str(store) and open_run(two).ledger["made_of"] == open_run(one).ledger["made_of"]
    for name in ("0", "1"):
        single, double, begun = (
            load_file(run / "experts" / expert / "weights.safetensors") for run, expert in ((one, name), (two, name), (teacher, name))
        )
        size = torch.cat([(single[key] - begun[key]).flatten() for key in single]).norm()
        apart = torch.cat([(single[key] - double[key]).flatten() for key in single]).norm()
        assert float(size) > 0 and float(apart / size) < 0.02, "nearer to each other than to where both began"
