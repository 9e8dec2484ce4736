"""The door to image files: what gets in, what is refused and why, what is written."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen.core.errors import UserError
from volgen.core.volume import Volume
from volgen.data import nifti

VOXELS = np.random.default_rng(0).integers(0, 1000, (9, 10, 11)).astype(np.int16)
AFFINE = np.diag([-1.5, 2.0, 1.25, 1.0])
AFFINE[:3, 3] = [10, -20, 30]


def save(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, **fields: object) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def patch(path: Path, offset: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mgh"])
def test_formats_give_the_same_canonical_volume(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    nib.save((nib.MGHImage if "mg" in name else nib.Nifti1Image)(VOXELS, AFFINE), path)
    expected = nib.as_closest_canonical(nib.Nifti1Image(VOXELS, AFFINE))
    volume = nifti.read(path)
    assert volume.orientation == "RAS" and volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, expected.get_fdata())
    assert np.abs(volume.affine - expected.affine).max() < 1e-5


def test_nifti2_and_big_endian_are_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(VOXELS, AFFINE), tmp_path / "two.nii.gz")
    big = nib.Nifti1Image(VOXELS, AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    expected = VOXELS[::-1]
    assert np.array_equal(nifti.read(tmp_path / "two.nii.gz").voxels, expected)
    assert np.array_equal(nifti.read(tmp_path / "big.nii").voxels, expected)


def test_scaling_and_the_quantum(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.header.set_slope_inter(0.25, -3.0)
    nib.save(image, tmp_path / "a.nii")
    scan = nifti.read_scan(tmp_path / "a.nii")
    assert scan.quantum == (0.25, -3.0) and scan.orientation == "LAS" and scan.shape == (9, 10, 11)
    assert np.array_equal(scan.volume.voxels, (VOXELS * 0.25 - 3.0)[::-1])


def test_micrometres_become_millimetres(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3] *= 1000
    path = save(tmp_path / "a.nii", affine=affine, xyzt_units=3)
    assert nifti.read(path).voxel_size == pytest.approx((1.5, 2.0, 1.25))


def test_a_single_volume_series_is_squeezed(tmp_path: Path) -> None:
    assert nifti.read(save(tmp_path / "a.nii.gz", VOXELS[..., None])).shape == (9, 10, 11)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Every kind of unusable file, and a word that its reason must hold."""
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.5
    zero = save(folder / "zero.nii", sform_code=0)
    patch(patch(zero, 80, struct.pack("<f", 0.0)), 252, struct.pack("<hh", 1, 0))
    cut = save(folder / "cut.nii.gz")
    cut.write_bytes(cut.read_bytes()[:-200])
    flat = save(folder / "flat.nii")
    flat.write_bytes(flat.read_bytes()[:-100])
    flipped = save(folder / "flipped.nii.gz")
    patch(flipped, len(flipped.read_bytes()) - 6, b"\xff\x00\xff")
    huge = patch(save(folder / "huge.nii"), 40, struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1))
    huge_gz = folder / "huge_gz.nii.gz"
    huge_gz.write_bytes(gzip.compress(huge.read_bytes()))
    lost = patch(save(folder / "lost.nii"), 252, struct.pack("<hh", 0, 0))
    nowhere = folder / "nowhere.mgh"
    nib.save(nib.MGHImage(VOXELS.astype(np.float32), AFFINE), nowhere)
    patch(nowhere, 28, struct.pack(">h", 0))
    nan = patch(save(folder / "nan_affine.nii"), 280, struct.pack("<f", float("nan")))
    none = folder / "none.nii.gz"
    none.write_bytes(b"")
    text = folder / "text.nii"
    text.write_text("not an image " * 100)
    text_gz = folder / "text.nii.gz"
    text_gz.write_text("not an image " * 100)
    rgb = folder / "rgb.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE), rgb)
    return {
        "4d": (save(folder / "4d.nii.gz", np.stack([VOXELS] * 3, -1)), "4D"),
        "2d": (save(folder / "2d.nii.gz", VOXELS[..., :1]), "2D"),
        "2d flat": (save(folder / "2df.nii.gz", VOXELS[..., 0]), "2D"),
        "sheared": (save(folder / "shear.nii", affine=sheared), "sheared"),
        "zero": (zero, "voxel size of zero"),
        "cut": (cut, "truncated"),
        "flat": (flat, "truncated"),
        "flipped": (flipped, "cannot be read"),
        "huge": (huge, "30000 x 30000 x 30000"),
        "huge gz": (huge_gz, "30000 x 30000 x 30000"),
        "lost": (lost, "orientation"),
        "lost mgh": (nowhere, "goodRASFlag"),
        "nan affine": (nan, "not finite"),
        "none": (none, "empty file"),
        "text": (text, "not NIfTI"),
        "text gz": (text_gz, "cannot be read"),
        "complex": (save(folder / "complex.nii", VOXELS.astype(np.complex64)), "complex"),
        "rgb": (rgb, "colours"),
        "missing": (folder / "missing.nii", "no such file"),
    }


def test_unusable_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    for kind, (path, word) in bad_files(tmp_path).items():
        with pytest.raises(UserError) as caught:
            nifti.read(path)
        assert word in caught.value.found, f"{kind}: {caught.value}"
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_written_header_is_fresh_and_complete(tmp_path: Path, name: str, dtype: str) -> None:
    voxels = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32) * 40
    nifti.write(tmp_path / name, Volume(voxels, AFFINE), dtype=dtype, description="volgen")  # type: ignore[arg-type]
    image = nib.load(tmp_path / name)
    head = image.header
    assert (int(head["sform_code"]), int(head["qform_code"])) == (2, 2)
    assert np.abs(head.get_sform() - AFFINE).max() < 1e-6 and np.abs(head.get_qform() - AFFINE).max() < 1e-5
    assert head.get_xyzt_units() == ("mm", "sec") and bytes(head["descrip"]).rstrip(b"\0") == b"volgen"
    assert image.get_data_dtype() == np.dtype(dtype)
    step = 0 if dtype == "float32" else np.ptp(voxels) / 65535
    assert np.abs(image.get_fdata() - voxels).max() <= step * 0.51
    if name.endswith("gz"):
        raw = (tmp_path / name).read_bytes()
        assert raw[3] & 0x08 == 0 and raw[4:8] == b"\0\0\0\0", "file name or time in the gzip header"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_whole_numbers_survive_int16(tmp_path: Path) -> None:
    nifti.write(tmp_path / "a.nii.gz", Volume(VOXELS.astype(np.float32), AFFINE), dtype="int16")
    image = nib.load(tmp_path / "a.nii.gz")
    assert (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0)
    assert np.array_equal(image.get_fdata(), VOXELS)


def test_equal_volumes_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write(tmp_path / name, Volume(VOXELS.astype(np.float32), AFFINE))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_nan_and_other_suffixes_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NaN"):
        nifti.write(tmp_path / "a.nii", Volume(np.full((3, 3, 3), np.nan), AFFINE))
    with pytest.raises(UserError, match="suffix"):
        nifti.write(tmp_path / "a.img", Volume(VOXELS, AFFINE))
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_in_upper_case_is_read_alike(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    assert np.array_equal(nifti.read(tmp_path / "A.NII.GZ").voxels, VOXELS[::-1]) and nifti.stem(tmp_path / "A.NII.GZ") == "A"


def test_a_gzip_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(whole + bytes(1 << 27)))
    (tmp_path / "tail.nii.gz").write_bytes(gzip.compress(whole + bytes(1 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="after its voxels"):
            nifti.read(tmp_path / "bomb.nii.gz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 25, "a quarter of what the bomb holds"
    assert np.array_equal(nifti.read(tmp_path / "tail.nii.gz").voxels, VOXELS[::-1])
