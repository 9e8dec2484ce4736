"""Samples of a bank whose weights are read ahead: on the device and on the CPU, twice, and with all experts in memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from part import Part, volgen
from torch import Tensor
from torch.nn import Module

from volgen.experts._weights import Copier, fill
from volgen.runs.trained import open_run

LIMIT = {"cuda": 120, "cpu": 180}
TURN = 2
pytestmark = pytest.mark.gpu
EXPERTS, VOLUMES = 6, 2
SWITCHES = 48


def _too_much(patch: pytest.MonkeyPatch) -> None:
    real = Copier.copy
    patch.setattr(Copier, "copy", lambda self, target, source: real(self, target, source * 3))


def _another_each_time(patch: pytest.MonkeyPatch) -> None:
    real, count = Copier.copy, iter(range(10**6))
    patch.setattr(Copier, "copy", lambda self, target, source: real(self, target, source * (1 + 1e-2 * next(count))))


def _once_only(patch: pytest.MonkeyPatch) -> None:
    """What is in a slot stays there: as if the next expert's weights came too late."""
    seen: set[int] = set()

    def first(module: Module, path: Path, copier: Copier) -> None:
        if id(module) not in seen:
            seen.add(id(module))
            fill(module, path, copier)

    patch.setattr("volgen.experts.bank.fill", first)


def _run(part: Part, precision: str) -> Path:
    name = f"bank_{precision}"
    if not (part.run(name) / "ensemble.json").exists():
        # Two steps, so that the last convolution, which begins as zeros, lets the others be seen.
        rest = {"max_steps": 3, "min_steps": 3, "validate_every": 3}
        config = part.config(name, experts={"count": EXPERTS, "warm_start": "none"}, engine={"precision": precision}, stopping=rest,
                             optimiser={"learning_rate": 1e-2, "warmup_steps": 0})  # fmt: skip
        volgen("train", "--config", config)
    return part.run(name)


def _volumes(out: Path) -> np.ndarray[Any, Any]:
    return np.stack([nib.load(path).get_fdata(dtype=np.float32) for path in sorted(out.glob("sub-*/anat/*.nii.gz"))])


@pytest.mark.mutant.with_args(_too_much)
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-3), ("bf16", 5e-2)])
def test_volumes_are_those_of_the_cpu(part: Part, precision: str, most: float) -> None:
    run, mine, theirs = _run(part, precision), part.work / f"samples_{precision}", part.work / f"samples_{precision}_cpu"
    common = ("sample", run, "--count", VOLUMES, "--seed", 3)
    began = time.monotonic()
    volgen(*common, "--out", mine, "--device", part.device)
    part.say(f"{VOLUMES} volumes of {EXPERTS} experts in {precision}", time.monotonic() - began, "s")
    done = part.on_the_cpu(*map(str, common), "--out", theirs, "--device", "cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    found, expected = _volumes(mine), _volumes(theirs)
    assert len(found) == VOLUMES and float(expected.std()) > 0
    apart = float(np.linalg.norm(found - expected) / np.linalg.norm(expected - expected.mean()))
    part.say(f"volumes on the device and on the CPU in {precision}, apart", apart)
    assert apart < most


@pytest.mark.mutant.with_args(_another_each_time)
def test_the_same_volumes_come_again_bit_for_bit(part: Part) -> None:
    run = _run(part, "fp32")
    made = []
    for name in ("once", "again"):
        volgen("sample", run, "--count", VOLUMES, "--seed", 4, "--out", part.work / f"samples_{name}", "--device", part.device)
        made.append(_volumes(part.work / f"samples_{name}"))
    assert np.array_equal(made[0], made[1])


@pytest.mark.mutant.with_args(_once_only)
def test_experts_that_change_places_are_those_that_stay(part: Part) -> None:
    """Every evaluation is another expert's, so that one is overwritten while the device still works with the one before."""
    run = open_run(_run(part, "fp32"))
    device = torch.device(part.device)
    preconditioner, levels = run.preconditioner(device), list(run.ensemble.grid)
    y = torch.randn(1, 1, *part.sizes.shape, generator=torch.Generator().manual_seed(1)).to(device)

    def walk(capacity: int) -> list[Tensor]:
        with run.bank(preconditioner, device, levels, capacity) as bank:
            return [bank(y, torch.tensor([levels[turn % len(levels)]], device=device)) for turn in range(SWITCHES)]

    moving, staying = walk(2), walk(EXPERTS)
    assert len({float(x.sum()) for x in staying[:EXPERTS]}) == EXPERTS, "experts differ"
    worst = max(float((a - b).abs().max()) for a, b in zip(moving, staying, strict=True))
    part.say(f"{SWITCHES} evaluations while experts change places, and with all in memory, apart", worst)
    assert worst == 0.0
