"""One rank and two ranks are the same run: losses, validation and exported averages."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from volgen.training.optimisers import LIBRARIES

pytestmark = pytest.mark.distributed

Alone, Start = Callable[..., Path], Callable[..., subprocess.Popen[str]]
EVERY = [
    {"zero_stage": stage, "precision": precision, "accumulation": accumulation}
    for stage in (0, 1, 2, 3) for precision in ("fp32", "bf16") for accumulation in (1, 2)
]  # fmt: skip
OFFLOADED = [{"zero_stage": 2, "offload": "optimiser"}, {"zero_stage": 3, "offload": "optimiser_and_weights"}]
MUON = {"warmup_steps": 2, "matrix_learning_rate": 0.02, "gradient_clip": 0.0}
LATENT = {"kind": "latent", "channels": [4, 8], "norm_groups": 4, "latent_channels": 1, "steps": 3, "gate": 0.0}
QUICK = [{"zero_stage": 3, "accumulation": 2, "activation_checkpointing": True}]


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def compare(
    alone: Alone, start: Start, tmp_path: Path, engine: dict[str, Any], *, halves: bool = False, **sections: dict[str, Any]
) -> None:  # fmt: skip
    """Two ranks against one; with ``halves``, one that adds up the gradients of the same two halves of a batch."""
    process = start("two", 2, engine=engine, **sections)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    own = {"precision": engine.get("precision", "fp32"), **({"accumulation": 2} if halves else {})}
    one, two = alone(engine=own, **sections), tmp_path / "runs" / "two"
    # Muon orthogonalises in half precision where the processor has it.
    tolerance = 2e-2 if engine.get("precision") == "bf16" else 2e-3 if "optimiser" in sections else 2e-4
    assert [(line["phase"], line["step"]) for line in metrics(one)] == [(line["phase"], line["step"]) for line in metrics(two)]
    for single, double in zip(metrics(one), metrics(two), strict=True):
        for key in ("loss", "gradient_norm", "validation_loss", "learning_rate"):
            # Under ZeRO, DeepSpeed takes the norm after Muon has replaced the matrices' gradients.
            if key in single and not (key == "gradient_norm" and "optimiser" in sections):
                assert double[key] == pytest.approx(single[key], rel=tolerance), (single, double)
    for expert in ("0", "1"):
        single, double = (load_file(run / "experts" / expert / "weights.safetensors") for run in (one, two))
        size = torch.cat([tensor.flatten() for tensor in single.values()])
        apart = torch.cat([(single[name] - double[name]).flatten() for name in single])
        # Adam's first steps have the size of the learning rate whatever the gradient, so a gradient of rounding errors moves a weight.
        assert float(apart.norm() / size.norm()) < tolerance


@pytest.mark.parametrize("engine", QUICK, ids=str)
def test_two_ranks_are_one_rank(engine: dict[str, Any], alone: Alone, start: Start, tmp_path: Path) -> None:
    compare(alone, start, tmp_path, engine)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [*EVERY, *OFFLOADED], ids=str)
def test_two_ranks_are_one_rank_in_every_mode(engine: dict[str, Any], alone: Alone, start: Start, tmp_path: Path) -> None:
    compare(alone, start, tmp_path, engine)


@pytest.mark.parametrize("stage", [pytest.param(stage, marks=[] if stage == 2 else pytest.mark.slow) for stage in (0, 1, 2, 3)])
def test_two_ranks_are_one_rank_with_muon(stage: int, alone: Alone, start: Start, tmp_path: Path) -> None:
    compare(alone, start, tmp_path, {"zero_stage": stage}, optimiser=MUON)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_two_ranks_are_one_rank_behind_an_autoencoder(stage: int, alone: Alone, start: Start, tmp_path: Path) -> None:
    compare(alone, start, tmp_path, {"zero_stage": stage}, method=LATENT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(LIBRARIES))
def test_two_ranks_are_one_rank_with_another_optimiser(kind: str, alone: Alone, start: Start, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[kind].module)
    # SOAP takes Adam's steps along eigenvectors of what few gradients span. In the rest they are anybody's: rounding moves weights by 1 %.
    compare(alone, start, tmp_path, {}, halves=True, optimiser={"algorithm": kind, "warmup_steps": 2}, ema={"decay": 0.0})
