"""Reorientation moves voxels and affine together: no voxel moves in the world."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from volgen.images.volume import Volume

CODES = ["".join(c) for pairs in itertools.permutations(["RL", "AP", "SI"]) for c in itertools.product(*pairs)]


def oblique() -> Volume:
    angle = np.deg2rad(12)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([1.0, 2.0, 3.0])
    affine[:3, 3] = [-5, 7, 11]
    return Volume(np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4), affine)


def world(volume: Volume) -> dict[int, tuple[float, ...]]:
    """Voxel value -> its place in mm."""
    return {int(volume.voxels[index]): tuple(np.round((volume.affine @ [*index, 1])[:3], 9) + 0.0) for index in np.ndindex(*volume.shape)}


def test_there_are_48_orientations() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("codes", CODES)
def test_every_voxel_stays_where_it_was(codes: str) -> None:
    before = oblique()
    after = before.reoriented(codes)
    assert after.orientation == codes
    assert world(after) == world(before)
    assert after.voxels.flags.c_contiguous
    assert sorted(after.voxel_size) == pytest.approx([1.0, 2.0, 3.0])
    back = after.reoriented("RAS")
    np.testing.assert_array_equal(back.voxels, before.voxels)
    np.testing.assert_allclose(back.affine, before.affine, atol=1e-12)


@pytest.mark.parametrize("codes", ["LPS", "LIA", "SRP"])
def test_nibabel_agrees(codes: str) -> None:
    before = oblique().reoriented(codes)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(before.voxels, before.affine))
    ours = before.reoriented("RAS")
    np.testing.assert_array_equal(ours.voxels, np.asarray(canonical.dataobj))
    np.testing.assert_allclose(ours.affine, canonical.affine, atol=1e-12)
