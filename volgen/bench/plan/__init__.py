"""The plan against measurement: peak memory and seconds per step of real training on this machine, beside what was predicted.

Each case trains runs of its own in processes of their own, on a synthetic store. One is short and does everything that a long run does,
with steps after it: it validates, keeps better weights, writes a checkpoint. Its resident set is the peak. Two others do nothing between
their steps: a step is the difference of their processor seconds over the difference of their steps, so that start and end of the process
do not count and other work on the machine hardly does (threads that wait sleep: they would burn processor seconds when something else has
their core). There are enough steps for that difference to be seconds. The prediction of the
peak is made without training, that of the step from calibration steps with made-up volumes (`volgen plan --measure`), in processor seconds
too. The table in docs/plan.md comes from here: ``volgen bench plan --out FILE.json``.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from pydantic import PositiveInt

from volgen.bench._shared.process import counted, processor_seconds
from volgen.commands.bench.result import Row, row
from volgen.commands.ingest.ingest import ingest
from volgen.commands.plan.measure import calibrate_apart
from volgen.commands.plan.memory import memory
from volgen.commands.plan.process import process_bytes
from volgen.core.config import Config as BaseConfig
from volgen.core.config import dump_yaml, validate
from volgen.core.errors import UserError
from volgen.core.progress import progress, say
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.planning.step import trace
from volgen.recipe import Recipe

Section = Mapping[str, object]
SCANS = 12
STEPS = 4
"""Steps of the run whose peak is measured."""
VALIDATE, SAVE = 2, 3
"""Steps between its validations and its checkpoints."""
FEW, MORE = 1, 3
"""Steps of the two runs that are timed, at least."""
SECONDS, MOST = 6.0, 61
"""Processor seconds that their difference should be, and the most steps."""
FIELD_OF_VIEW = 128.0
BIG: Section = {"kind": "wavelet_unet3d", "channels": [64, 128, 256, 400]}
UNET: Section = {"kind": "unet3d"}
MUON: Section = {"matrix_learning_rate": 1e-2, "gradient_clip": 0.0}
ADAM: Section = {"gradient_clip": 1.0}


@dataclass(frozen=True)
class Case:
    """A run to plan and to train.

    Attributes:
        name: what its rows are called.
        edge: voxels along each axis.
        batch: volumes.
        network: section of the configuration.
        engine: section of the configuration.
        optimiser: section of the configuration.
        preconditioner: section of the configuration.
    """

    name: str
    edge: int
    batch: int
    network: Section
    engine: Section
    optimiser: Section
    preconditioner: Section


SMALL: Section = {"kind": "wavelet_unet3d", "channels": [24, 48, 96]}
GAUSSIAN: Section = {"kind": "gaussian", "folds": 3}
CASES = (
    Case("16^3 wavelet bf16 ZeRO-0", 16, 2, SMALL, {"precision": "bf16"}, MUON, GAUSSIAN),
    Case("32^3 wavelet 49 M bf16 ZeRO-2", 32, 2, BIG, {"precision": "bf16", "zero_stage": 2}, MUON, GAUSSIAN),
    Case("32^3 wavelet 49 M fp32 ZeRO-3", 32, 2, BIG, {"zero_stage": 3}, MUON, GAUSSIAN),
    Case("48^3 unet3d fp32 ZeRO-1 edm", 48, 1, UNET, {"zero_stage": 1}, ADAM, {"kind": "edm"}),
    Case("64^3 wavelet fp32 ZeRO-0, batch 4", 64, 4, SMALL, {}, MUON, GAUSSIAN),
    Case("96^3 wavelet bf16 ZeRO-2 checkpointing", 96, 2, SMALL,
         {"precision": "bf16", "zero_stage": 2, "activation_checkpointing": True}, MUON, GAUSSIAN),
    Case("128^3 wavelet bf16 ZeRO-0", 128, 1, SMALL, {"precision": "bf16"}, MUON, GAUSSIAN),
)  # fmt: skip


class Config(BaseConfig):
    """Which cases are measured."""

    cases: PositiveInt = len(CASES)
    """How many of the cases are measured, from the first on; they grow in size."""


def run(config: Config) -> list[Row]:
    """Four rows for each case: measured and predicted peak, measured and predicted seconds of a step.

    Raises:
        UserError: a training process failed.
    """
    rows: list[Row] = []
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # of the processes that are started below; here it comes too late
    with tempfile.TemporaryDirectory() as scratch, progress("bench", min(config.cases, len(CASES))) as ticker:
        for case in CASES[: config.cases]:
            found = _case(case, Path(scratch))
            say(", ".join(f"{entry.name}: {entry.value:.4g} {entry.unit}" for entry in found))
            rows += found
            ticker.advance()
    return rows


def table(rows: Sequence[Row]) -> str:
    """One line for each case."""
    lines = ["| | peak, predicted / measured MiB | ratio | step, predicted / measured CPU s | ratio |", "|---|---|---|---|---|"]
    for peak, peak_planned, step, step_planned in zip(*(iter(rows),) * 4, strict=True):
        lines.append(
            f"| {peak.name.removesuffix(': peak')} | {peak_planned.value:.0f} / {peak.value:.0f} | {peak_planned.value / peak.value:.3f} "
            f"| {step_planned.value:.3g} / {step.value:.3g} | {step_planned.value / step.value:.3f} |"
        )
    return "\n".join(lines)


def _case(case: Case, scratch: Path) -> list[Row]:
    store = _store(scratch, case.edge)
    recipe = _recipe(case, store, scratch)
    people = len(Store.open(store).split("train"))
    predicted = memory(recipe, trace(recipe, case.batch, people, gpu=False), 1, people, process_bytes(recipe)).total
    step = calibrate_apart(recipe, case.batch, people).cpu
    peak, _ = _train(recipe, STEPS, scratch, VALIDATE, SAVE)
    more = steps_to_time(step)
    (_, seconds_few), (_, seconds_more) = (_train(recipe, steps, scratch) for steps in (FEW, more))
    measured = Row(f"{case.name}: peak", peak / 2**20, "MiB")
    spent = Row(f"{case.name}: step", (seconds_more - seconds_few) / (more - FEW), "CPU s")
    return [
        measured, row(f"{case.name}: predicted peak", predicted / 2**20, "MiB", measured),
        spent, row(f"{case.name}: predicted step", step, "CPU s", spent),
    ]  # fmt: skip


def steps_to_time(step: float) -> int:
    """Steps of the longer of the two runs that are timed, for steps of about ``seconds`` of a processor."""
    return min(MOST, max(MORE, FEW + math.ceil(SECONDS / step)))


def _recipe(case: Case, store: Path, scratch: Path) -> Recipe:
    content = {
        "name": "measured", "runs": str(scratch / "runs"),
        "data": {"store": str(store), "shape": [case.edge] * 3, "batch_size": case.batch},
        "schedule": {"kind": "log_snr", "sigma_min": 0.15, "sigma_max": 10.0, "points": 8},
        "network": case.network, "preconditioner": case.preconditioner, "engine": case.engine, "optimiser": case.optimiser,
        "stopping": {"validation_volumes": 2, "validation_draws": 1},
    }  # fmt: skip
    return validate(Recipe, content, case.name)


def _store(scratch: Path, edge: int) -> Path:
    """Ellipsoids with noise: what is in the voxels changes neither memory nor time."""
    store, scans = scratch / f"store-{edge}", scratch / f"scans-{edge}"
    if store.exists():
        return store
    scans.mkdir()
    random = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij")
    for person in range(SCANS):
        distance = sum((axis / radius) ** 2 for axis, radius in zip(axes, random.uniform(0.4, 0.8, 3), strict=True))
        voxels = (500 * np.exp(-distance) + random.uniform(0, 5, (edge,) * 3)).astype(np.float32)
        affine = np.diag([*[FIELD_OF_VIEW / edge] * 3, 1.0])
        nib.save(nib.Nifti1Image(voxels, affine), scans / f"sub-{person:02d}_T1w.nii.gz")
    ingest(scans, store, IngestConfig(shape=(edge,) * 3, voxel_size=FIELD_OF_VIEW / edge, validation=0.25, test=0.05), workers=1)
    return store


def _train(recipe: Recipe, steps: int, scratch: Path, validate_every: int = 0, checkpoint_every: int = 0) -> tuple[int, float]:
    """Peak resident bytes and processor seconds of `volgen train` in a process of its own; without more, it validates once, at its end."""
    stopping = recipe.stopping.model_copy(update={"max_steps": steps, "min_steps": steps, "validate_every": validate_every or steps})
    engine = recipe.engine.model_copy(update={"checkpoint_every": checkpoint_every or steps})
    name = f"{recipe.name}-{recipe.data.shape[0]}-{steps}-{os.urandom(4).hex()}"
    changed = recipe.model_copy(update={"name": name, "stopping": stopping, "engine": engine})
    path = scratch / "train.yaml"
    path.write_text(dump_yaml(changed), encoding="utf-8")
    log = scratch / "train.log"
    with log.open("w") as output:
        code, used = counted(["-m", "volgen", "train", "--config", str(path)], output, output)
    if code:
        raise UserError(f"bench plan, {recipe.network.kind}", f"training failed: {log.read_text()[-500:]}")
    return used.ru_maxrss * 1024, processor_seconds(used)
