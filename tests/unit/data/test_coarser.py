"""Stores in larger voxels, which volumes of these are compared with."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen.commands.ingest.ingest import ingest
from volgen.commands.report.report import report
from volgen.core.errors import UserError
from volgen.data.coarser import in_voxels_of
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.images import nifti
from volgen.images.volume import Volume

SIZE = (32, 32, 32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """16 synthetic heads of 32^3 voxels of 4 mm."""
    folder, generator = tmp_path_factory.mktemp("fine"), np.random.default_rng(0)
    axes = np.meshgrid(*[np.arange(32) - 15.5] * 3, indexing="ij")
    (folder / "scans").mkdir()
    for person in range(16):
        radii = generator.uniform(10, 12, 3)
        inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, radii, strict=True)) < 1
        voxels = 300.0 * inside * (1 + 0.1 * generator.standard_normal(SIZE))
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([4.0, 4, 4, 1])), folder / "scans" / f"sub-{person:02d}_T1w.nii.gz")
    ingest(folder / "scans", folder / "store", IngestConfig(shape=SIZE, voxel_size=4.0, validation=0.3, test=0.1))
    return Store.open(folder / "store")


def of(edge: float) -> Volume:
    return Volume(np.zeros((4, 4, 4), np.float32), np.diag([edge, edge, edge, 1.0]))


def test_scans_are_means_where_their_cubes_are(store: Store) -> None:
    seen = in_voxels_of(store, [lambda: of(8.0)])
    assert seen.shape == (16, 16, 16) and seen.fingerprint != store.fingerprint
    for record, fine in zip(seen.records, store.records, strict=True):
        expected = store.read(fine).voxels.reshape(16, 2, 16, 2, 16, 2).mean((1, 3, 5))
        np.testing.assert_allclose(seen.read(record).voxels, expected, rtol=1e-5)
        np.testing.assert_allclose(seen.read_unit(record).mean(), store.read_unit(fine).mean(), rtol=1e-5)
        np.testing.assert_allclose(record.voxel_size, (8.0, 8.0, 8.0))
        np.testing.assert_allclose(record.affine @ [-0.5, -0.5, -0.5, 1], fine.affine @ [-0.5, -0.5, -0.5, 1], err_msg="one field of view")
    seen.verify(seen.records[0])
    with pytest.raises(ValueError, match="have no codes"):
        seen.read_codes(seen.records[0])


@pytest.mark.parametrize("edge", [4.0, 2.0, 12.0, 64.0])
def test_other_voxels_leave_a_store_as_it_is(store: Store, edge: float) -> None:
    assert in_voxels_of(store, [lambda: of(edge)]) is store
    assert in_voxels_of(store, []) is store


def test_a_file_that_cannot_be_read_is_not_what_decides(store: Store) -> None:
    def broken() -> Volume:
        raise UserError("x", "is damaged", "a volume")

    assert in_voxels_of(store, [broken, lambda: of(8.0)]).shape == (16, 16, 16)


def test_a_report_on_volumes_of_larger_voxels_has_bands_of_their_voxels(store: Store, tmp_path: Path) -> None:
    seen = in_voxels_of(store, [lambda: of(8.0)])
    for number, record in enumerate(seen.records[:2]):
        volume = seen.read(record)
        if number:
            volume.voxels[:, :, 8] *= 0.2
        nifti.write(tmp_path / "samples" / f"sub-{number + 1:04d}_T1w.nii.gz", volume)
    report(tmp_path / "samples", Path(str(store.path)), tmp_path / "report")
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["reference"]["voxel_size"] == [8.0, 8.0, 8.0] and content["reference"]["shape"] == [16, 16, 16]
    assert [volume["verdict"] for volume in content["volumes"]] == ["pass", "fail"]
    assert content["volumes"][0]["shape"] == [16, 16, 16] and "targets" in content["cohort"]
