"""Another number of ranks or another ZeRO stage goes on from the same checkpoint, with the losses of an undisturbed run.

The sums of a batch are taken in another order from then on, so the losses agree to TOLERANCE and not to the last bit.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed

Alone, Start = Callable[..., Path], Callable[..., subprocess.Popen[str]]
TOLERANCE = 2e-4
"""Relative, of losses and of the weights' norm; the same as one rank against two."""
STEPS = 24
SECTIONS: dict[str, dict[str, Any]] = {"experts": {"count": 1}, "stopping": {"max_steps": STEPS, "validate_every": 8}}
MUON = {"warmup_steps": 2, "matrix_learning_rate": 0.02, "gradient_clip": 0.0}
ROUTES = [
    ((1, 0), (2, 2)), ((2, 3), (1, 0)), ((2, 0), (2, 2)), ((2, 2), (2, 3)), ((2, 1), (1, 3)), ((1, 2), (2, 1)), ((2, 3), (2, 1)),
]  # fmt: skip


def go_on(start: Start, run: Path, ranks: int, stage: int, last: bool, **sections: dict[str, Any]) -> None:
    """Trains with these ranks and stage: to the end, or until the run has stopped itself at a checkpoint."""
    process = start(run.name, ranks, engine={"zero_stage": stage, "checkpoint_every": 4}, **sections)
    if not last:
        while process.poll() is None and not any(run.glob("experts/0/checkpoint-*")):
            pass
        process.terminate()
    errors = process.communicate(timeout=240)[1]
    assert (run / "ensemble.json").exists() == last, errors


def compare(run: Path, undisturbed: Path) -> None:
    one, other = ([json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (run, undisturbed))
    assert [line["step"] for line in one] == list(range(1, STEPS + 1))
    for mine, theirs in zip(one, other, strict=True):
        for key in ("loss", "validation_loss"):
            if key in theirs:
                assert mine[key] == pytest.approx(theirs[key], rel=TOLERANCE), (mine, theirs)
    mine, theirs = (load_file(path / "experts" / "0" / "weights.safetensors") for path in (run, undisturbed))
    apart = torch.cat([(mine[name] - theirs[name]).flatten() for name in theirs])
    assert float(apart.norm()) < TOLERANCE * float(torch.cat([tensor.flatten() for tensor in theirs.values()]).norm())


def travel(route: tuple[tuple[int, int], ...], alone: Alone, start: Start, tmp_path: Path, **more: dict[str, Any]) -> None:
    run = tmp_path / "runs" / "reshaped"
    for place, (ranks, stage) in enumerate(route):
        go_on(start, run, ranks, stage, place == len(route) - 1, **SECTIONS, **more)
    compare(run, alone(**SECTIONS, **more))


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_run_goes_on_with_any_ranks_and_any_stage(route: tuple[tuple[int, int], ...], alone: Alone, start: Start, tmp_path: Path) -> None:
    travel(route, alone, start, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("route", [((1, 0), (2, 2)), ((2, 1), (1, 0)), ((2, 2), (2, 3))], ids=str)
def test_a_run_with_muon_goes_on_with_other_ranks_and_another_stage(
    route: tuple[tuple[int, int], ...], alone: Alone, start: Start, tmp_path: Path
) -> None:
    travel(route, alone, start, tmp_path, optimiser=MUON)
