"""Private steps on the device against a plain loop over patients on the CPU, and a private run from the command line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from part import Part, volgen

from volgen.parallel import launch
from volgen.privacy.mechanism import GradientMechanism

LIMIT = {"cuda": 120, "cpu": 180}
TURN = 2
pytestmark = pytest.mark.gpu


def _steps() -> ModuleType:
    """The script that tests/distributed runs on several ranks."""
    path = Path(__file__).parents[1] / "distributed" / "private_steps.py"
    spec = importlib.util.spec_from_file_location("private_steps", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["private_steps"] = module
    spec.loader.exec_module(module)
    return module


steps = _steps()
CASES = {
    "0 one view": (0, "fp32", steps.ONE_VIEW, ""),
    "2 all views": (2, "fp32", steps.ALL_VIEWS, ""),
    "0 patients": (0, "fp32", steps.PATIENTS, "wavelet_unet3d"),
    "2 patients": (2, "fp32", steps.PATIENTS, ""),
    "3 one view": (3, "fp32", steps.ONE_VIEW, "wavelet_unet3d"),
}


def _unclipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GradientMechanism, "add", steps.WithoutClipping.add)


@pytest.mark.mutant.with_args(_unclipped)
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_a_loop_over_patients(part: Part, case: str) -> None:
    stage, precision, at_once, own = CASES[case]
    launch.take_part(launch.Launch())
    found = steps.compare(stage, precision, noise=0.7, clip=0.3, at_once=at_once, own=own)
    part.say(f"private moments at ZeRO-{case} and a loop on the CPU, apart", found["moments"])
    assert found["moments"] < 1e-5
    assert found["weights"] < 1e-3


@pytest.mark.mutant.with_args(lambda patch: patch.setattr("volgen.privacy.ledger.Ledger.take", lambda *_: None))
def test_a_private_run(part: Part) -> None:
    window = {"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-3, "clip_norm": 0.5, "intensity": [0.0, 1000.0], "skull_stripped": False}
    sections = {"privacy": window, "preconditioner": {"kind": "edm"}, "stopping": {"max_steps": 3, "min_steps": 3}}
    volgen("train", "--config", part.config("private", **sections, optimiser={"gradient_clip": 0.0}))
    ledger = (part.run("private") / "privacy_journal.jsonl").read_text().splitlines()
    assert len(ledger) >= 3, "one line before each step"
