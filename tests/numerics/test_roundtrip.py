"""NIfTI -> store -> NIfTI on the identity grid: same voxels, same places, in whatever order the file has its axes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torchio as tio

from volgen.commands.export.export import export
from volgen.commands.ingest.ingest import ingest
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.images import nifti

NATIVE = IngestConfig(shape=None, voxel_size=None)
SHAPE = (23, 30, 17)
MARK = (5, 22, 11)


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    a, b = [n for n in range(3) if n != axis]
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def affine_of(axes: np.ndarray, sizes: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array(sizes)
    affine[:3, 3] = origin
    return affine.astype(np.float32).astype(np.float64)  # what a NIfTI header can hold


LIA = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
GEOMETRIES = {
    "RAS": affine_of(np.eye(3), (1, 1, 1), (-11.5, -20.25, 7.125)),
    "LPS": affine_of(np.diag([-1.0, -1, 1]), (1, 1, 1), (90.3, 126.7, -72.1)),
    "LIA": affine_of(LIA, (1, 1, 1), (128.1, -99.9, 127.3)),
    "oblique": affine_of(rotation(17, 0) @ rotation(-9, 1) @ rotation(31, 2), (1.1, 1.1, 1.1), (-40.5, 33.3, -12.9)),
    "anisotropic": affine_of(np.diag([-1.0, 1, 1]), (0.8680556, 0.8680556, 3.3), (126.97, -88.49, -68.96)),
    "oblique-LIA-anisotropic": affine_of(rotation(-12, 2) @ rotation(8, 0) @ LIA, (0.5, 2.0, 1.25), (61.2, -70.9, 33.0)),
}


def voxels_of(kind: str) -> np.ndarray:
    noise = np.random.default_rng(4).normal(size=SHAPE)
    noise[MARK] = 9.0
    return {
        "int16": (noise * 500).astype(np.int16),
        "uint8": np.clip(noise * 25 + 25, 0, 255).astype(np.uint8),
        "float32": (noise * 371.7).astype(np.float32),
    }[kind]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", ["int16", "float32", "uint8"])
def test_identity_grid_returns_the_file(tmp_path: Path, geometry: str, kind: str) -> None:
    source = tmp_path / "in" / "sub-01_T1w.nii.gz"
    source.parent.mkdir()
    original = nib.Nifti1Image(voxels_of(kind), GEOMETRIES[geometry])
    if kind == "int16":
        original.header.set_slope_inter(0.37, -12.5)
    nib.save(original, source)
    before = nib.load(source)
    ingest(source, tmp_path / "store", NATIVE)
    (file,) = export(tmp_path / "store", tmp_path / "out")
    after = nib.load(file)
    record = Store.open(tmp_path / "store").records[0]
    # Stored integers come back as the same numbers; floats within half a quantum.
    rounding = 1e-6 * np.abs(before.get_fdata()).max()
    tolerance = record.slope / 2 + rounding if kind == "float32" else rounding
    assert record.slope <= np.ptp(before.get_fdata()) / 65534 or kind != "float32"
    assert np.abs(after.get_fdata() - before.get_fdata()).max() <= tolerance
    assert np.abs(after.affine - before.affine).max() <= 1e-6
    assert nib.aff2axcodes(after.affine) == nib.aff2axcodes(before.affine)
    assert np.abs(after.header.get_qform() - after.header.get_sform()).max() < 1e-4
    (canonical,) = export(tmp_path / "store", tmp_path / "ras", orientation="RAS", dtype="int16")
    expected = nib.as_closest_canonical(before)
    assert nib.aff2axcodes(nib.load(canonical).affine) == ("R", "A", "S")
    assert np.allclose(nib.load(canonical).affine, expected.affine, atol=1e-6, rtol=1e-7)
    assert np.abs(nib.load(canonical).get_fdata() - expected.get_fdata()).max() <= np.ptp(before.get_fdata()) / 65535 * 1.01


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("native", [True, False])
def test_three_libraries_agree_where_a_voxel_is(tmp_path: Path, geometry: str, native: bool) -> None:
    source = tmp_path / "sub-01_T1w.nii.gz"
    voxels = np.zeros(SHAPE, np.float32)
    inside = voxels[2:-2, 2:-2, 2:-2]
    inside[...] = np.random.default_rng(0).uniform(9.0, 11.0, inside.shape)  # of few values it would be taken for a mask
    voxels[MARK] = 100.0
    nib.save(nib.Nifti1Image(voxels, GEOMETRIES[geometry]), source)
    truth = nib.affines.apply_affine(GEOMETRIES[geometry], MARK)
    config = NATIVE if native else IngestConfig(shape=(40, 36, 44), voxel_size=None)
    ingest(source, tmp_path / "store", config)
    (file,) = export(tmp_path / "store", tmp_path / "out", orientation="source" if native else "RAS")
    by_nibabel = nib.load(file)
    there = np.unravel_index(by_nibabel.get_fdata().argmax(), by_nibabel.shape)
    assert nib.affines.apply_affine(by_nibabel.affine, there) == pytest.approx(truth, abs=1e-4)
    by_torchio = tio.ScalarImage(file)
    there = np.unravel_index(by_torchio.data[0].numpy().argmax(), by_torchio.spatial_shape)
    assert nib.affines.apply_affine(by_torchio.affine, there) == pytest.approx(truth, abs=1e-4)
    by_itk = sitk.ReadImage(str(file))
    k, j, i = np.unravel_index(sitk.GetArrayViewFromImage(by_itk).argmax(), by_itk.GetSize()[::-1])
    x, y, z = by_itk.TransformIndexToPhysicalPoint((int(i), int(j), int(k)))
    assert (-x, -y, z) == pytest.approx(truth, abs=1e-4)  # ITK's world is LPS


@pytest.mark.slow
def test_real_scans_stay_where_they_were_at_256(tmp_path: Path, test_data: Path) -> None:
    """Five scans as acquired, on 256^3 at 1 mm, against SimpleITK's resampling of the originals onto the same grid."""
    chosen = tmp_path / "in"
    chosen.mkdir()
    for path in sorted((test_data / "native").glob("*.nii.gz"))[:5]:
        (chosen / path.name).symlink_to(path)
    ingest(chosen, tmp_path / "store", IngestConfig(shape=(256, 256, 256), voxel_size=1.0), workers=2)
    store = Store.open(tmp_path / "store")
    assert store.shape == (256, 256, 256)
    for record in store.records:
        file = tmp_path / f"{record.id}.nii"
        volume = store.read(record)
        nifti.write(file, volume)
        grid = sitk.ReadImage(str(file))
        original = sitk.ReadImage(str(chosen / f"{record.id}_T1w.nii.gz"), sitk.sitkFloat32)
        resampled = sitk.GetArrayFromImage(sitk.Resample(original, grid, sitk.Transform(), sitk.sitkLinear, 0.0)).T
        assert np.corrcoef(resampled.ravel(), volume.voxels.ravel())[0, 1] > 0.99
        image = nib.load(chosen / f"{record.id}_T1w.nii.gz")
        distance = np.linalg.norm(centroid(volume.voxels, volume.affine) - centroid(image.get_fdata(), image.affine))
        assert distance < 0.1, f"{record.id} moved by {distance} mm"
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")


def centroid(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Intensity-weighted centre in world coordinates."""
    weights = [voxels.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64) for axis in range(3)]
    return nib.affines.apply_affine(affine, [(w * np.arange(w.size)).sum() / w.sum() for w in weights])
