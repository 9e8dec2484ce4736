"""Ranks that reconstruct together make the volumes of one process, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from volgen.cli import main

pytestmark = pytest.mark.distributed

COUNT = 3


@pytest.fixture(scope="module")
def run(alone: Callable[..., Path]) -> Path:
    return alone(experts={"count": 2}, stopping={"max_steps": 1, "min_steps": 1, "validate_every": 1})


@pytest.mark.parametrize("stages", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_ranks_make_the_reconstructions_of_one_process(run: Path, tmp_path: Path, stages: int) -> None:
    """With two stages volumes flow through the ranks; with one each rank draws some of them."""
    store = str(json.loads((run / "manifest.json").read_text())["config"]["data"]["store"])
    words = ["reconstruct", str(run), "--simulate", store, "--split", "all", "--people", "1", "--operator", "inpaint", "--count",
             str(COUNT), "--seed", "3", "--device", "cpu"]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "volgen", *words]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    together = subprocess.run(
        [*command, "--out", str(tmp_path / "ranks"), "--stages", str(stages)], env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    assert main([*words, "--out", str(tmp_path / "alone")]) == 0
    made = [{path.name: path.read_bytes() for path in sorted((tmp_path / out).rglob("*_T1w.nii.gz"))} for out in ("ranks", "alone")]
    assert made[0] == made[1] and sum("sample" in name for name in made[0]) == COUNT
    assert json.loads((tmp_path / "ranks/manifest.json").read_text())["complete"] is True
