"""Masks, maps of labels and padding, known by their voxels."""

from __future__ import annotations

import numpy as np
import pytest

from volgen.data.ingest.content import no_scan, without_padding
from volgen.images.intensity import IntensityMap
from volgen.images.volume import Volume

GRID = np.stack(np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij"))
HEAD = (GRID**2).sum(0) < 0.7
NOISE = np.random.default_rng(0).normal(0, 20, HEAD.shape)
SCAN = np.rint((HEAD * 400 + HEAD * NOISE).clip(0)).astype(np.float32)
REGIONS = (HEAD * (1 + ((GRID * 2.2 + 4).astype(int) * [[[[1]]], [[[9]]], [[[81]]]]).sum(0))).astype(np.float32)


@pytest.mark.parametrize(
    "voxels", [HEAD.astype(np.float32), HEAD * 0.37, REGIONS, REGIONS + 1000, np.digitize(GRID[0], [-0.5, 0, 0.5]).astype(np.float32)]
)
def test_masks_and_maps_of_labels_are_no_scans(voxels: np.ndarray) -> None:
    assert "not a scan" in str(no_scan(voxels.astype(np.float32)))


@pytest.mark.parametrize(
    "voxels", [SCAN, SCAN / 7, np.rint(SCAN / 8), np.rint(SCAN / SCAN.max() * 40), SCAN * 100 - 5000, NOISE, np.rint(NOISE)]
)
def test_scans_are_scans(voxels: np.ndarray) -> None:
    assert no_scan(voxels.astype(np.float32)) is None


def test_the_header_may_say_it() -> None:
    assert "intent 1002" in str(no_scan(SCAN, 1002)) and "statistic" in str(no_scan(SCAN, 5))
    assert no_scan(SCAN, 1001) is None, "an estimate, such as a T1 map, is an image"


@pytest.mark.parametrize("constant", [-32768.0, -1000.0, -200.0])
def test_padding_is_set_to_the_lowest_real_value(constant: float) -> None:
    padded = SCAN.copy()
    padded[:3] = constant
    volume, note = without_padding(Volume(padded, np.eye(4)))
    assert f"{constant:g}" in str(note) and volume.voxels.min() == 0 and np.array_equal(volume.voxels[3:], padded[3:])
    window, clean = IntensityMap.robust(volume.voxels), IntensityMap.robust(SCAN[3:])
    assert window.low == 0 and window.high == pytest.approx(clean.high, rel=0.01)


def spike() -> np.ndarray:
    voxels = SCAN.copy()
    voxels[0, 0, :2] = -32768
    return voxels


@pytest.mark.parametrize(
    "voxels", [SCAN, np.where(HEAD, SCAN + 300, 0), np.where(HEAD, SCAN + 300, -1), NOISE, np.where(HEAD, NOISE, -70), -SCAN, spike()]
)
def test_background_and_negative_values_are_no_padding(voxels: np.ndarray) -> None:
    volume = Volume(voxels.astype(np.float32), np.eye(4))
    assert without_padding(volume) == (volume, None)
