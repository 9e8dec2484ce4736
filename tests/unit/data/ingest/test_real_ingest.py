"""What ingest does to real scans: how much detail of theirs a coarse grid keeps, and how alike they are in one frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from volgen.data.ingest.biases.n4 import Config as N4
from volgen.data.ingest.frame import SharedFrame, on_grid
from volgen.data.ingest.grid import GridConfig, conform
from volgen.data.ingest.preprocess import IngestConfig
from volgen.images import nifti
from volgen.images.blocks import block_means
from volgen.images.volume import Volume

IDS = ("sub-DEP01", "sub-DEP09", "sub-DEP12")


def scan(folder: Path, name: str) -> Volume:
    return nifti.read(folder / "brains-1mm" / name / "anat" / f"{name}_T1w.nii.gz")


def fine_share(voxels: np.ndarray) -> float:
    """Share of a volume's energy at wavelengths below four voxels along some axis."""
    energy = np.abs(np.fft.fftn(voxels - voxels.mean())) ** 2
    fine = np.max(np.stack(np.meshgrid(*[np.abs(np.fft.fftfreq(n)) for n in voxels.shape], indexing="ij")), axis=0) > 0.25
    return float(energy[fine].sum() / energy.sum())


def test_a_coarse_store_has_the_detail_that_block_means_have(test_data: Path) -> None:
    shares = []
    for name in IDS:
        volume = scan(test_data, name)
        means = fine_share(block_means(volume.voxels, (4, 4, 4)))
        sharp, linear = (conform(volume, GridConfig(shape=None, voxel_size=4.0, resampling=how)) for how in ("sharp", "linear"))
        # Turned by ten degrees, the grid is another and no block is a block; 3.3 is no multiple of anything.
        turn = np.diag([4.0, 4.0, 4.0, 1.0])
        c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
        turn[:2, :2] = 4 * np.array([[c, -s], [s, c]])
        shape = (44, 52, 40)
        middle = volume.affine @ [*((np.array(volume.shape) - 1) / 2), 1]
        turn[:3, 3] = middle[:3] - turn[:3, :3] @ ((np.array(shape) - 1) / 2)
        turned = fine_share(on_grid(volume, turn, shape))
        odd = fine_share(conform(volume, GridConfig(shape=None, voxel_size=3.3)).voxels)
        expected = 0.5 * (fine_share(block_means(volume.voxels, (3, 3, 3))) + means)
        shares.append((fine_share(sharp.voxels) / means, fine_share(linear.voxels) / means, turned / means, odd / expected))
    sharp, linear, turned, odd = np.mean(shares, axis=0)
    assert sharp == pytest.approx(1.0, abs=1e-3), "whole blocks are means of blocks"
    assert linear < 0.7, "what 0.2.0 did"
    assert 0.85 < turned < 1.1
    assert 0.85 < odd < 1.15


@pytest.mark.slow
def test_real_people_are_more_alike_in_one_frame_and_without_shading(test_data: Path) -> None:
    template, one, two = (scan(test_data, name) for name in IDS)
    config = IngestConfig(shape=(160, 192, 160), registration="affine", bias="n4")
    frame = SharedFrame(template, config)
    here = on_grid(template, frame.affine, frame.shape)
    for person in (one, two):
        taken = frame.take(person)
        assert taken.kept > 0.995
        own = conform(person, GridConfig(shape=(160, 192, 160))).voxels
        before = np.corrcoef(own.ravel(), conform(template, GridConfig(shape=(160, 192, 160))).voxels.ravel())[0, 1]
        assert np.corrcoef(taken.volume.voxels.ravel(), here.ravel())[0, 1] > before + 0.02
        corrected = N4().corrected(person)
        spread = [_spread(volume.voxels) for volume in (person, corrected)]
        assert spread[1] < 0.9 * spread[0], "white matter is more of one brightness"


def _spread(voxels: np.ndarray) -> float:
    """Width of the brightest mode of the foreground, of its place: white matter."""
    values = voxels[voxels > voxels.mean()]
    histogram, edges = np.histogram(values, bins=128, range=(0, float(np.percentile(values, 99.8))))
    smooth = np.convolve(histogram, np.hanning(9) / np.hanning(9).sum(), mode="same")
    top = int(64 + smooth[64:].argmax())
    half = smooth > smooth[top] / 2
    above = top + int(np.argmin(half[top:]))
    return float((above - top) / edges[top] * edges[1])
