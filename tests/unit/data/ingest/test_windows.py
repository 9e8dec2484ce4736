"""Everybody's white matter comes to one value, whatever the scanner called it; what has none is refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from volgen.commands.ingest.ingest import ingest
from volgen.core.errors import UserError
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.ingest.windows.white_matter import Config as WhiteMatter
from volgen.data.store import Store
from volgen.images.volume import Volume

SHAPE, EDGE = (64, 76, 60), 2.5
AIR, FLUID, GREY, WHITE, FAT = range(5)
T1W = (0.0, 0.15, 0.6, 1.0, 1.8)


def tissues(thick: float, scalp: bool) -> np.ndarray:
    """A brain of white matter under ``thick`` mm of grey, which is folded into it, with a ventricle; in a scalp of fat, behind bone."""
    x, y, z = (np.moveaxis(np.indices(SHAPE), 0, -1) - np.array(SHAPE) / 2 + 0.5).transpose(3, 0, 1, 2) * EDGE

    def ellipsoid(a: float, b: float, c: float, at: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
        return ((abs(x) - at[0]) / a) ** 2 + ((y - at[1]) / b) ** 2 + ((z - at[2]) / c) ** 2 < 1

    found = np.full(SHAPE, AIR)
    if scalp:
        found[ellipsoid(76, 91, 71)] = FAT
        found[ellipsoid(69, 84, 64)] = AIR
    found[ellipsoid(62, 76, 57)] = GREY
    found[ellipsoid(62 - thick, 76 - thick, 57 - thick)] = WHITE
    found[(found == WHITE) & ~ellipsoid(38, 46, 35) & (np.cos(2 * np.pi * z / 24) > 0.1)] = GREY
    found[ellipsoid(9, 14, 9, (16, 6, 2))] = GREY
    found[ellipsoid(5, 20, 9, (8, -2, 12))] = FLUID
    return found


def scan(seed: int, gain: float = 1.0, offset: float = 0.0, scalp: bool = False, contrast: tuple[float, ...] = T1W) -> np.ndarray:
    """[X, Y, Z]: borders half a voxel soft, tissue with noise, air without."""
    rng = np.random.default_rng(seed)
    shown = gaussian_filter(np.take(contrast, tissues(rng.uniform(8, 16), scalp)), 0.5)
    inside = shown > 0.02
    return (gain * np.where(inside, shown + rng.normal(0, 0.02, SHAPE), 0.0).clip(0) + offset).astype(np.float32)


def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels, np.diag([EDGE, EDGE, EDGE, 1.0]))


@pytest.mark.parametrize("scalp", [False, True])
def test_white_matter_comes_to_one_value_whatever_the_scanner_called_it(tmp_path: Path, scalp: bool) -> None:
    (tmp_path / "in").mkdir()
    white = {}
    for seed, gain, offset in ((1, 900.0, 0.0), (2, 0.4, 0.0), (3, 300.0, -75.0), (4, 37.0, 12.0)):
        voxels = scan(seed, gain, offset, scalp)
        nib.Nifti1Image(voxels, np.diag([EDGE, EDGE, EDGE, 1.0])).to_filename(tmp_path / "in" / f"sub-0{seed}.nii.gz")
        white[f"sub-0{seed}"] = gain + offset
    settings = {"shape": (32, 40, 32), "voxel_size": 5.0, "validation": 0.0, "test": 0.0}
    ingest(tmp_path / "in", tmp_path / "store", IngestConfig(**settings, window={"kind": "white_matter", "at": 0.7}))
    store = Store.open(tmp_path / "store")
    assert store.settings["window"] == {"kind": "white_matter", "at": 0.7, "depth": 15.0}
    for record in store.records:
        unit = store.read_unit(record)
        assert float(record.intensity.to_unit(np.array(white[record.id]))) == pytest.approx(0.7, rel=0.01)
        core = unit[11:14, 13:17, 14:18]
        assert np.median(core) == pytest.approx(0.7, rel=0.01)
        assert unit[0, 0, 0] < 1e-3, "air stays air"
    ingest(tmp_path / "in", tmp_path / "plain", IngestConfig(**settings))
    plain = Store.open(tmp_path / "plain")
    assert "window" in plain.settings and plain.fingerprint != store.fingerprint
    at = [float(record.intensity.to_unit(np.array(white[record.id]))) for record in plain.records]
    if not scalp:
        assert min(at) > 0.75, "percentiles are another value"


@pytest.mark.parametrize(
    ("contrast", "why"),
    [((0.0, 1.0, 0.62, 0.4, 0.5), "brighter than"), ((0.0, 0.2, 0.8, 0.6, 0.5), "not deeper")],
)
def test_another_contrast_is_refused_with_what_to_do(contrast: tuple[float, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        WhiteMatter().mode(volume(scan(5, contrast=contrast)))
    assert "--window robust" in str(refused.value)


def test_what_is_no_head_is_refused() -> None:
    with pytest.raises(ValueError, match="inside of a head"):
        WhiteMatter(depth=80.0).mode(volume(scan(1)))
    with pytest.raises(ValueError, match="inside of a head"):
        WhiteMatter().mode(volume(np.full(SHAPE, 3.0, dtype=np.float32)))


def test_ingest_says_what_to_do_about_a_scan_without_white_matter(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    voxels = scan(5, contrast=(0.0, 1.0, 0.62, 0.4, 0.5))
    nib.Nifti1Image(voxels, np.diag([EDGE, EDGE, EDGE, 1.0])).to_filename(tmp_path / "in" / "sub-01.nii.gz")
    with pytest.raises(UserError, match=r"no usable intensity window.*white matter of a T1w head.*--window robust"):
        ingest(tmp_path / "in", tmp_path / "store", IngestConfig(window="white_matter", shape=None, voxel_size=None))
