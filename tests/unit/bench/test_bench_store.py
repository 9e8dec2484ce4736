"""The comparison behind docs/store.md runs, and its rows say what they are relative to."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen.bench.store import PACKINGS
from volgen.cli import main
from volgen.commands.ingest.ingest import ingest
from volgen.data.ingest.preprocess import IngestConfig


def test_every_packing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voxels = np.random.default_rng(0).normal(size=(70, 20, 33)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "sub-1_T1w.nii")
    ingest(tmp_path / "sub-1_T1w.nii", tmp_path / "store", IngestConfig(shape=None, voxel_size=None))
    out = tmp_path / "bench.json"
    assert main(["bench", "store", str(tmp_path / "store"), "--out", str(out), "--repeats", "1"]) == 0
    content = json.loads(out.read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert len(rows) == 1 + 2 * len(PACKINGS) * 5 and rows["voxels"]["value"] == voxels.size
    raw = rows["uint16 none 64^3 size"]
    assert raw["value"] * 2**20 == pytest.approx(2 * voxels.size, rel=0.03)
    (reference, ratio), *rest = raw["ratio_to"].items()
    assert not rest and ratio == pytest.approx(raw["value"] / rows[reference]["value"])
    assert capsys.readouterr().out.count("\n") == 2 + 2 * len(PACKINGS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench.json", "store", "sub-1_T1w.nii"]
    assert main(["bench", "store", str(tmp_path / "nowhere")]) == 2
