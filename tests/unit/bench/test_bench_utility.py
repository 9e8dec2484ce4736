"""`volgen bench utility`: epsilon, distance and errors are those of the ledger, of the samples and of `bench experts`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volgen.cli import main
from volgen.commands.sample.sample import sample
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.data.store import Store
from volgen.evaluation.frechet_ratio import frechet_ratio
from volgen.images import nifti
from volgen.recipe import Recipe


def _run(store: Path, runs: Path, name: str, **sections: Any) -> Path:
    content: dict[str, Any] = {
        "name": name, "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2, "workers": 1},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 3.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"}, "optimiser": {"gradient_clip": 0.0},
        "stopping": {"max_steps": 2, "min_steps": 2, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    return train(validate(Recipe, {**content, **sections}, "test"))


def test_a_line_for_each_run_and_a_figure(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_run = _run(blob_store, tmp_path, "open")
    private = _run(blob_store, tmp_path, "private", privacy={"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3, "accountant": "rdp"})
    about = [str(open_run), str(private), "--store", str(blob_store), "--split", "validation", "--volumes", "2", "--device", "cpu"]
    files = ["--out", str(tmp_path / "u.json"), "--figure", str(tmp_path / "u.png")]
    assert main(["bench", "utility", *about, "--samples", "3", *files]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in shown[2:4]] == [["| open", "none"], ["| private", shown[3].split(" | ")[1]]]
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")
    found = {row["name"]: row["value"] for row in json.loads((tmp_path / "u.json").read_text())["rows"]}
    assert found["private epsilon"] == json.loads((private / "privacy_ledger.json").read_text())["epsilon"] and "open epsilon" not in found
    assert main(["bench", "experts", *about, "--out", str(tmp_path / "e.json")]) == 0
    errors = {row["name"]: row["value"] for row in json.loads((tmp_path / "e.json").read_text())["rows"]}
    for name in ("open", "private"):
        assert found[f"{name} error"] == pytest.approx(errors[f"{name} mean"], rel=1e-6)
        assert found[f"{name} error sigma 3"] == pytest.approx(errors[f"{name} sigma 3"], rel=1e-6)
    store, out = Store.open(blob_store), sample(private, tmp_path / "out", count=3, seed=0)
    high = 1000.0  # privacy.intensity
    drawn = np.stack([np.clip(nifti.read(path).voxels / high, 0, 1).reshape(1, -1) for path in sorted(out.rglob("*.nii.gz"))])
    unseen, real = ([store.read_unit(r).reshape(1, -1) for r in store.split(split)] for split in ("validation", "train"))  # type: ignore[arg-type]
    assert found["private frechet"] == pytest.approx(frechet_ratio(drawn, np.stack(unseen), np.stack(real))["ratio"], rel=1e-4)
