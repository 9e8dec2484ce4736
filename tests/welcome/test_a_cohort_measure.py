"""A measure of a cohort is one file: it stands in ``report.json`` and on the page, and the summary tells when it is missed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

TOY = '''"""A toy: the brightest voxel."""

from __future__ import annotations

from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.cohort_measure import Compared, Goal, VolumeGroup, Target


class Config(BaseConfig):
    """The brightest voxel of all."""

    kind: Literal["toy"] = "toy"
    place: ClassVar[int] = 8
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("toy brightness", "Brightest voxel of the toy", missed="the toy is missed"),
        Goal("toy voxels", "Voxels of the toy", fewest=3, shown="voxels", aim="any"),
    )

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        brightest = max(float(volume.max()) for volume in generated.volumes)
        return Compared({"brightest": brightest, "voxels": int(train.union.sum())}, [Target("toy brightness", brightest, None, -1.0)])
'''


def head(path: Path, seed: int) -> None:
    """A scan: an ellipsoid with texture."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1.3, 1.3, 16)] * 3, indexing="ij")
    inside = sum((axis / r) ** 2 for axis, r in zip(axes, rng.uniform(0.9, 1.1, 3), strict=True)) < 1
    voxels = np.where(inside, 0.6 + 0.2 * rng.random((16, 16, 16)), 0.0).astype(np.float32)
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([8.0, 8.0, 8.0, 1.0])), path)


def test_a_cohort_measure_is_one_file(house: Callable[[], Any]) -> None:
    newcomer = house()
    newcomer.add("evaluation/cohorts/toy.py", TOY)
    for seed in range(10):
        head(newcomer.folder / "scans" / f"sub-{seed:02d}_T1w.nii.gz", seed)
    for seed in (20, 21):
        head(newcomer.folder / "made" / f"sub-{seed}_T1w.nii.gz", seed)
    store = newcomer.folder / "store.zarr"
    newcomer.run("ingest", newcomer.folder / "scans", store, "--shape", "16", "--voxel-size", "8", "--validation", "0.3")
    out = newcomer.folder / "report"
    newcomer.run("report", newcomer.folder / "made", "--reference", store, "--out", out)
    report = json.loads((out / "report.json").read_text())
    assert report["cohort"]["toy"]["voxels"] > 0
    target = report["cohort"]["targets"][-1]
    assert target == {
        "name": "toy brightness", "label": "Brightest voxel of the toy", "value": 1.0, "band": [None, -1.0], "pass": False,
    }  # fmt: skip
    assert any("the toy is missed" in text for text in report["summary"]["text"])
    assert any("The Voxels of the toy is of too few volumes" in text for text in report["summary"]["few"])
    page = (out / "report.html").read_text()
    assert "Brightest voxel of the toy" in page and "Voxels of the toy" in page
