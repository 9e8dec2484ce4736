"""A store of several contrasts, end to end: one model is told which one a scan is, and draws the one that is asked for."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import volgen
from volgen.cli import main
from volgen.commands.train.train import train
from volgen.data.store import Store
from volgen.recipe import load

CONTRASTS = {"T1w": (300.0, 900.0), "T2w": (900.0, 300.0), "FLAIR": (600.0, 600.0)}
"""Brightness of heads and of what is in their middle."""
PEOPLE = 30


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a BIDS tree whose people have three images each, and a table of scans that says which is which."""
    root = tmp_path_factory.mktemp("contrasts")
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    rows = ["scan_id\tcontrast\tsex"]
    for number in range(PEOPLE):
        folder = root / "bids" / f"sub-{number:02d}" / "anat"
        folder.mkdir(parents=True)
        head = sum((axis / r) ** 2 for axis, r in zip(axes, generator.uniform(5.5, 6.5, 3), strict=True)) < 1
        middle = sum(axis**2 for axis in axes) < generator.uniform(3.0, 4.0) ** 2
        for contrast, (outer, inner) in CONTRASTS.items():
            voxels = outer * (head & ~middle) + inner * (head & middle) + generator.uniform(0, 30, (16, 16, 16))
            image = nib.Nifti1Image(voxels.astype(np.float32), np.diag([8.0, 8.0, 8.0, 1.0]))
            nib.save(image, folder / f"sub-{number:02d}_{contrast}.nii.gz")
            rows.append(f"sub-{number:02d}_{contrast}\t{contrast}\t{'FM'[number % 2]}")
    (root / "scans.tsv").write_text("\n".join(rows))
    words = ["ingest", str(root / "bids"), str(root / "store"), "--shape", "16", "16", "16", "--voxel-size", "8", "--centre", "grid"]
    assert main([*words, "--suffix", ",".join(CONTRASTS), "--validation", "0.15", "--test", "0.05"]) == 0
    volgen.participants(root / "store", root / "scans.tsv", columns=["contrast", "sex"])
    return root / "store"


def test_every_contrast_of_a_person_is_a_scan_of_the_same_patient(contrasts: Path) -> None:
    store = Store.open(contrasts)
    assert len(store.records) == 3 * PEOPLE and len({record.patient for record in store.records}) == PEOPLE
    for _, scans in itertools.groupby(sorted(store.records, key=lambda record: record.patient), key=lambda record: record.patient):
        together = list(scans)
        assert {record.covariates["contrast"] for record in together} == set(CONTRASTS)
        assert len({(record.split, record.covariates["sex"]) for record in together}) == 1
    assert set(store.covariates.columns["contrast"].levels or ()) == set(CONTRASTS)


@pytest.mark.slow
def test_the_contrast_that_is_asked_for_is_drawn(contrasts: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "name": "generalist", "runs": str(tmp_path), "seed": 5, "data": {"store": str(contrasts), "batch_size": 8, "workers": 1},
        "schedule": {"kind": "karras", "points": 10, "sigma_min": 0.05, "sigma_max": 20.0}, "preconditioner": {"kind": "edm"},
        "network": {"kind": "wavelet_unet3d", "channels": [32, 32]}, "conditions": [{"kind": "categorical", "column": "contrast"}],
        "optimiser": {"learning_rate": 2e-3, "warmup_steps": 10},
        "stopping": {"max_steps": 200, "min_steps": 200, "validate_every": 100, "validation_volumes": 4, "validation_draws": 1},
    }  # fmt: skip
    run = train(load(content))
    (tmp_path / "asked.tsv").write_text("\n".join(["contrast", *list(CONTRASTS) * 2]))
    volgen.sample(run, tmp_path / "samples", given=tmp_path / "asked.tsv", seed=1)
    volumes = [np.asarray(nib.load(path).dataobj) for path in sorted((tmp_path / "samples").rglob("*.nii.gz"))]  # type: ignore[attr-defined]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")))
    ratios = {contrast: np.log(inner / outer) for contrast, (outer, inner) in CONTRASTS.items()}
    for volume, asked in zip(volumes, list(CONTRASTS) * 2, strict=True):
        seen = np.log(volume[distance < 2.5].mean() / volume[(distance > 4.3) & (distance < 5.2)].mean())
        assert min(ratios, key=lambda contrast: abs(ratios[contrast] - seen)) == asked, (asked, seen, ratios)
