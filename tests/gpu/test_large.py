"""`configs/brain256_experts8.yaml` at 256^3: a step under several settings and a sample, beside what `volgen plan` says of them."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from part import GIB, Part, volgen

from volgen import recipe as recipes
from volgen.commands.plan.measure import measure
from volgen.parallel.engine import Engine

LIMIT = {"cuda": 280, "cpu": 180}
TURN = 1
pytestmark = pytest.mark.gpu
SETTINGS = {"cuda": ((2, True), (0, False), (0, True), (3, True)), "cpu": ((2, True), (0, False))}
"""ZeRO stage and checkpointing; the first is what the configuration says."""


def _plan(part: Part, config: Path) -> dict[str, Any]:
    out = part.work / "plan_large"
    if not (out / "plan.json").exists():
        memory = torch.cuda.get_device_properties(0).total_memory / GIB if part.device == "cuda" else 8.0
        device = "gpu" if part.device == "cuda" else "cpu"
        began = time.monotonic()
        volgen(
            "plan", "--config", config, "--nodes", 1, "--gpus-per-node", 1, "--gpu-memory", memory, "--device", device, "--out", out,
        )  # fmt: skip
        part.say("volgen plan", time.monotonic() - began, "s")
    found: dict[str, Any] = json.loads((out / "plan.json").read_text())
    return found


def _row(plan: dict[str, Any], stage: int, checkpointing: bool) -> dict[str, Any]:
    rows = [row for row in plan["settings"] if (row["stage"], row["activation_checkpointing"]) == (stage, checkpointing)]
    return next(row for row in rows if row["offload"] == "none")


def _half_of_everything(patch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = _plan

    def halved(part: Part, config: Path) -> dict[str, Any]:
        plan = json.loads(json.dumps(real(part, config)))
        for row in plan["settings"]:
            row["bytes_per_gpu"]["total"] /= 4
        return plan  # type: ignore[no-any-return]

    patch.setitem(globals(), "_plan", halved)


@pytest.mark.mutant.with_args(_half_of_everything)
def test_a_step_beside_the_plan(part: Part) -> None:
    config = part.large_config("large")
    plan = _plan(part, config)
    chosen = plan["chosen"]
    part.say("volgen plan chooses", f"ZeRO-{chosen['stage']}, checkpointing {chosen['activation_checkpointing']}")
    bad: list[str] = []
    for stage, checkpointing in SETTINGS[part.device]:
        name = f"step of {part.sizes.batch} volumes of {part.sizes.large}^3, ZeRO-{stage}, checkpointing {'on' if checkpointing else 'off'}"
        row = _row(plan, stage, checkpointing)
        predicted = row["bytes_per_gpu"]["total"]
        if not row["fits"]:  # 80 GB hold four volumes with checkpointing only
            part.say(f"{name}: memory", "more than there is, says the plan", predicted=predicted / GIB)
            continue
        recipe = recipes.load(config, [("engine.zero_stage", str(stage)), ("engine.activation_checkpointing", str(checkpointing).lower())])
        try:
            with part.peak() as peak:
                took = measure(recipe, part.sizes.batch, part.sizes.large_people).step
        except torch.OutOfMemoryError as error:
            part.say(f"{name}: memory", str(error)[:200], predicted=predicted / GIB)
            bad.append(f"{name} does not fit, and was to take {predicted / GIB:.1f} GiB")
            continue
        held = peak["in_all"]
        part.say(f"{name}: memory", held / GIB, "GiB", predicted=predicted / GIB, allocated=peak["allocated"] / GIB)
        part.say(f"{name}: time", took, "s", predicted=row["step_seconds"])
        part.say(f"{name}: throughput", 1e-12 * row["flops_per_step"] / took, "TFLOP/s")
        # The plan may be careful, and must not be careless.
        if not predicted / 2 < held < 1.1 * predicted:
            bad.append(f"{name} takes {held / GIB:.2f} GiB, and the plan said {predicted / GIB:.2f}")
    assert not bad, "; ".join(bad)


@pytest.mark.mutant.with_args(lambda patch: patch.setattr(Engine, "step", lambda self, rate: float("nan")))
def test_a_run_from_the_store(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that all experts start from and a step of each, as configured: with reading, noise, validation and files."""
    times, real = [time.monotonic()], Engine.step

    def timed(self: Engine, rate: float) -> float:
        norm = real(self, rate)
        if part.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.monotonic())
        return norm

    monkeypatch.setattr(Engine, "step", timed)
    config = part.large_config("large")
    with part.peak() as peak:
        volgen("train", "--config", config)
    steps = [after - before for before, after in itertools.pairwise(times[1 : part.sizes.steps + 1])]
    predicted = _plan(part, config)
    row = _row(predicted, *SETTINGS[part.device][0])
    part.say(f"training step of {part.sizes.batch} volumes from the store", statistics.median(steps), "s", predicted=row["step_seconds"])
    part.say("training: memory", peak["in_all"] / GIB, "GiB", predicted=row["bytes_per_gpu"]["total"] / GIB)
    part.say("training of nine networks, in all", times[-1] - times[0], "s")
    assert (part.run("large") / "ensemble.json").exists() and len(steps) == part.sizes.steps - 1


@pytest.mark.mutant.with_args(
    lambda patch: patch.setattr("volgen.experts._weights.Copier.copy", lambda self, target, source: target.normal_())
)
def test_a_sample_of_eight_experts(part: Part) -> None:
    made = []
    for name in ("large_once", "large_again"):
        began = time.monotonic()
        with part.peak() as peak:
            volgen(
                "sample", part.run("large"), "--out", part.work / name, "--count", 1, "--seed", 0, "--steps", part.sizes.levels,
                "--device", part.device,
            )  # fmt: skip
        seconds = time.monotonic() - began
        part.say(f"a volume of {part.sizes.large}^3 in {part.sizes.levels} steps, {name.removeprefix('large_')}", seconds, "s")
        part.say(f"a volume of {part.sizes.large}^3, {name.removeprefix('large_')}: memory", peak["in_all"] / GIB, "GiB")
        (path,) = (part.work / name).glob("sub-*/anat/*.nii.gz")
        made.append(nib.load(path).get_fdata(dtype=np.float32))
    assert np.isfinite(made[0]).all() and made[0].shape == (part.sizes.large,) * 3
    assert np.array_equal(made[0], made[1]), "weights that are read ahead do not meet those that are used"
