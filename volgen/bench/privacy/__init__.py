"""Private against ordinary training: seconds and memory of a step, one patient at a time, several in one pass, and Opacus alone.

Every arm is the code that trains (trainer, engine, clipping, noise, average of the weights), on made-up volumes in a process of its own,
whose resident set at its highest is the memory. Arms take turns, `--rounds` times, and the median counts. Every step sees the same
number of patients. The arm "Opacus alone" has Opacus' module, optimiser and noise, and no DeepSpeed.
The table in docs/privacy.md comes from here: ``volgen bench privacy --out FILE.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median

from pydantic import PositiveInt

from volgen.bench.privacy.arms import Exercised, measure
from volgen.commands.bench.result import Row, row
from volgen.core.config import Config as BaseConfig
from volgen.core.config import validate
from volgen.core.progress import progress, say
from volgen.recipe import Recipe

ARMS = ("ordinary", "ordinary, volume by volume", "private, one patient", "private, several patients", "Opacus alone")
"""Arms in the order in which :func:`volgen.bench.privacy.arms.measure` knows them."""
MEASURES = {"step": "s", "CPU": "CPU s", "peak": "MiB", "training": "MiB"}
"""Figures of each arm: seconds of a step, those of a processor, the highest resident set, and what of that is training, not libraries."""
REFERENCE = ARMS[1]
"""What private training is compared with: it, too, holds one volume's activations at a time."""


@dataclass(frozen=True)
class PrivacyCase:
    """One size of network and of volume.

    Attributes:
        name: what its rows are called.
        edge: voxels along each axis.
        patients: in each step, with one view.
        network: section of the configuration.
    """

    name: str
    edge: int
    patients: int
    network: Mapping[str, object]


WAVELET = {"kind": "wavelet_unet3d", "channels": [48, 112, 184]}
CASES = (
    PrivacyCase("32^3 wavelet_unet3d 10 M", 32, 4, WAVELET),
    PrivacyCase("32^3 unet3d 10 M", 32, 4, {"kind": "unet3d", "channels": [32, 64, 160]}),
    PrivacyCase("64^3 wavelet_unet3d 10 M", 64, 2, WAVELET),
)


class Config(BaseConfig):
    """How much is measured."""

    cases: PositiveInt = len(CASES)
    """How many of the cases are measured, from the first on."""
    rounds: PositiveInt = 3
    """Times that every arm is measured; the median counts."""


def run(config: Config) -> list[Row]:
    """Four rows for each arm of each case, with ratios to ordinary training."""
    rows: list[Row] = []
    cases = CASES[: config.cases]
    # A server that has read the libraries once starts each process: memory of an arm is its own, and nothing of another arm is left.
    context = get_context("forkserver")
    context.set_forkserver_preload(["deepspeed", "opacus.optimizers", "monai.networks.nets", "volgen.bench.privacy.arms"])
    with progress("bench", len(cases) * config.rounds * len(ARMS)) as ticker:
        for case in cases:
            content = _recipe(case).model_dump_json()
            found: dict[str, list[Exercised]] = {arm: [] for arm in ARMS}
            for _ in range(config.rounds):
                for number, arm in enumerate(ARMS):
                    with ProcessPoolExecutor(1, context) as process:
                        found[arm].append(process.submit(measure, content, number).result())
                    ticker.advance()
            made = _rows(case, found)
            say(", ".join(f"{entry.name}: {entry.value:.4g} {entry.unit}" for entry in made))
            rows += made
    return rows


def table(rows: Sequence[Row]) -> str:
    """One line for each arm of each case."""
    lines = [f"| | s/step | CPU s/step | peak MiB | of it training | step, to {REFERENCE} | CPU | peak | training |", "|---" * 9 + "|"]
    for start in range(0, len(rows), len(MEASURES)):
        arm = rows[start : start + len(MEASURES)]
        ratios = (next((ratio for name, ratio in entry.ratio_to.items() if f": {REFERENCE}: " in name), 1.0) for entry in arm)
        values = " | ".join(f"{entry.value:.3g}" if entry.unit != "MiB" else f"{entry.value:.0f}" for entry in arm)
        lines.append(f"| {arm[0].name.rpartition(': ')[0]} | {values} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return "\n".join(lines)


def _rows(case: PrivacyCase, found: Mapping[str, Sequence[Exercised]]) -> list[Row]:
    rows: list[Row] = []
    for arm in ARMS:
        values = (
            median(one.wall for one in found[arm]), median(one.cpu for one in found[arm]),
            median(one.peak for one in found[arm]) / 2**20, median(one.beyond for one in found[arm]) / 2**20,
        )  # fmt: skip
        for place, ((kind, unit), value) in enumerate(zip(MEASURES.items(), values, strict=True)):
            # To both ways of ordinary training, where there are any before this arm.
            rows.append(row(f"{case.name}: {arm}: {kind}", value, unit, *rows[place :: len(MEASURES)][:2]))
    return rows


def _recipe(case: PrivacyCase) -> Recipe:
    content = {
        "name": "measured", "data": {"store": "none", "shape": [case.edge] * 3, "batch_size": case.patients},
        "schedule": {"kind": "log_snr", "points": 4}, "network": dict(case.network), "preconditioner": {"kind": "edm"},
        "optimiser": {"gradient_clip": 0.0}, "stopping": {"max_steps": 1, "min_steps": 1},
        "privacy": {"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-5},
    }  # fmt: skip
    return validate(Recipe, content, case.name)
