"""`volgen bench steps`: distances of known samples, and a whole small form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volgen.bench.steps.features import Yardstick
from volgen.cli import main
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.recipe import Recipe


def blobs(count: int, seed: int, brightness: float = 0.8) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    x, y, z = np.mgrid[-1:1:12j, -1:1:12j, -1:1:12j]
    radii = np.random.default_rng(seed).uniform(0.4, 0.8, size=(count, 3))
    return [(brightness * ((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1)).astype(np.float32) for a, b, c in radii]


def test_a_yardstick_tells_real_people_from_others_and_pairs_from_strangers() -> None:
    yardstick = Yardstick.fit(blobs(40, 0), blobs(30, 1), count=20)
    real, dull = (yardstick.project(blobs(20, 2, brightness)) for brightness in (0.8, 0.2))
    assert yardstick.distance(real) < 1.5 * np.mean(yardstick.floor) < yardstick.distance(dull)
    pairs = yardstick.resampled(dull, 0) - yardstick.resampled(real, 0)
    assert pairs.std() < yardstick.resampled(dull, 0).std() + yardstick.resampled(real, 1).std(), "the same choices for both"
    assert np.array_equal(yardstick.resampled(real, 3), yardstick.resampled(real, 3))


def test_a_small_form_compares_every_sampler_with_the_one_that_takes_most(
    blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("volgen.bench.steps.FEWEST", 1)
    content = {
        "name": "run", "runs": str(tmp_path), "data": {"store": str(blob_store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 3.0}, "network": {"kind": "wavelet_unet3d", "channels": [8]},
        "preconditioner": {"kind": "edm"}, "stopping": {"max_steps": 1, "min_steps": 1, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    run, out = train(validate(Recipe, content, "test")), tmp_path / "steps.json"
    words = ["bench", "steps", str(run), "--store", str(blob_store), "--steps", "2", "4", "--count", "8", "--device", "cpu"]
    assert main([*words, "--samplers", "ddpm", "heun", "--out", str(out), "--figure", str(tmp_path / "steps.svg")]) == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert [rows[f"{name} evaluations"]["value"] for name in ("ddpm, 2 steps", "heun, 2 steps", "heun, 4 steps")] == [2, 3, 7]
    assert rows["heun, 4 steps minus reference"]["value"] == 0 and rows["heun, 4 steps detail minus reference"]["interval"] == [0, 0]
    assert rows["ddpm, 2 steps distance"]["ratio_to"]["real people"] > 0
    assert (tmp_path / "steps.svg").stat().st_size > 1000
    assert capsys.readouterr().out.count("reference |") == 2
    assert main([*words, "--samplers", "huen"]) == 2 and "no sampler 'huen'" in capsys.readouterr().err
    assert main([*words, "--figure", "x.gif"]) == 2 and "--figure" in capsys.readouterr().err
