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
from volgen.images import nifti
from volgen.images.volume import Volume

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


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_header_extensions_of_any_size_are_passed_over(tmp_path: Path, version: int, order: str, name: str) -> None:
    kind = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    for sizes in ((100,), (3000,), (60000, 24), (2_000_000,)):
        image = kind(VOXELS, AFFINE, kind.header_class(endianness=order))
        image.set_data_dtype(VOXELS.dtype)
        for size in sizes:
            image.header.extensions.append(nib.nifti1.Nifti1Extension(4, b"<attributes/>".ljust(size)))
        nib.save(image, tmp_path / name)
        scan = nifti.read_scan(tmp_path / name)
        assert np.array_equal(scan.volume.voxels, VOXELS[::-1]) and scan.quantum == (1.0, 0.0)


def test_extensions_that_lie_about_themselves_change_nothing(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(4, b"x" * 40))
    nib.save(image, tmp_path / "a.nii")
    for length in (-1, 0, 7, 2**31 - 1):
        patch(tmp_path / "a.nii", 352, struct.pack("<i", length))
        assert np.array_equal(nifti.read(tmp_path / "a.nii").voxels, VOXELS[::-1])
    flag = patch(save(tmp_path / "flag.nii"), 348, b"\x01")  # it says that there are extensions, and there are none
    assert np.array_equal(nifti.read(flag).voxels, VOXELS[::-1])


def with_offset(path: Path, before: bytes, version: int = 1) -> Path:
    """A file whose header says nothing of where its voxels begin, with some bytes between the two."""
    nib.save({1: nib.Nifti1Image, 2: nib.Nifti2Image}[version](VOXELS, AFFINE), path.with_suffix(".whole.nii"))
    whole = path.with_suffix(".whole.nii").read_bytes()
    head, voxels = bytearray(whole[: 348 if version == 1 else 540]), whole[352 if version == 1 else 544 :]
    if version == 1:
        head[108:112] = struct.pack("<f", 0.0)
    else:
        head[168:176] = struct.pack("<q", 0)
    content = bytes(head) + before + voxels
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_are_found_where_the_header_does_not_say_it(tmp_path: Path, name: str, version: int) -> None:
    extension = struct.pack("<ii", 48, 4) + b"x" * 40
    for before in (b"", bytes(4), b"\x01\0\0\0" + extension, b"\x01\0\0\0" + 2 * extension):
        assert np.array_equal(nifti.read(with_offset(tmp_path / name, before, version)).voxels, VOXELS[::-1]), len(before)
    for before in (bytes(3), bytes(20), b"\x01\0\0\0" + extension[:-3]):
        with pytest.raises(UserError, match="does not say where its voxels begin"):
            nifti.read(with_offset(tmp_path / name, before, version))
    (tmp_path / name).write_bytes(with_offset(tmp_path / "cut.nii", bytes(4)).read_bytes()[:-100])
    with pytest.raises(UserError):
        nifti.read(tmp_path / name)


@pytest.mark.parametrize("offset", [100.0, 352.5, float("nan"), float("inf"), -16.0])
def test_an_impossible_place_of_the_voxels_is_refused(tmp_path: Path, offset: float) -> None:
    with pytest.raises(UserError, match=r"voxels at byte|NaN"):
        nifti.read(patch(save(tmp_path / "a.nii"), 108, struct.pack("<f", offset)))


def test_a_quaternion_that_rounding_made_too_long_is_one_of_180_degrees(tmp_path: Path) -> None:
    affine = np.diag([-1.5, -2.0, 1.25, 1.0])
    expected = nifti.read(save(tmp_path / "right.nii", affine=affine, sform_code=0, qform_code=1))
    for d in (1.0, 1.00001, 1.001, 0.999999):
        path = patch(save(tmp_path / "a.nii", affine=affine), 252, struct.pack("<hhfff", 1, 0, 0.0, 0.0, d))
        volume = nifti.read(path)
        assert np.abs(volume.affine - expected.affine).max() < 0.06 and np.array_equal(volume.voxels, expected.voxels)
        assert volume.voxel_size == pytest.approx((1.5, 2.0, 1.25), rel=1e-6)
    for d in (1.5, float("nan")):
        with pytest.raises(UserError, match="no rotation"):
            nifti.read(patch(save(tmp_path / "a.nii"), 252, struct.pack("<hhfff", 1, 0, 0.0, 0.0, d)))


def test_a_rotation_from_a_quaternion_is_what_nibabel_reads(tmp_path: Path) -> None:
    rotation = nib.eulerangles.euler2mat(0.4, -0.3, 0.2) @ np.diag([-1.5, 2.0, 1.25])
    image = nib.Nifti1Image(VOXELS, None)
    image.set_qform(nib.affines.from_matvec(rotation, [1, 2, 3]), 1)
    nib.save(image, tmp_path / "a.nii")
    expected = nib.as_closest_canonical(nib.load(tmp_path / "a.nii"))
    assert np.abs(nifti.read(tmp_path / "a.nii").affine - expected.affine).max() < 1e-6


def both(path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int]) -> Path:
    image = nib.Nifti1Image(VOXELS, sform)
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    nib.save(image, path)
    return path


def test_an_sform_and_a_qform_that_contradict_each_other(tmp_path: Path) -> None:
    mirror, turned = np.diag([-1.0, 1, 1, 1]) @ AFFINE, np.diag([-1.0, -1, 1, 1]) @ AFFINE
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.1
    far[0, 3] += 40
    for codes in ((1, 1), (4, 1), (2, 1)):
        with pytest.raises(UserError, match="contradicts itself: its axes are RAS by the sform, LAS by the qform"):
            nifti.read(both(tmp_path / "a.nii", mirror, AFFINE, codes))
    with pytest.raises(UserError, match="contradicts itself"):
        nifti.read(both(tmp_path / "a.nii", turned, AFFINE, (1, 1)))
    noted = {
        "its axes are RPS by the sform, LAS by the qform": nifti.read_scan(both(tmp_path / "a.nii", turned, AFFINE, (4, 1))),
        "lie up to 40 apart": nifti.read_scan(both(tmp_path / "b.nii", far, AFFINE, (1, 1))),
    }
    for words, scan in noted.items():
        assert words in scan.notes[0] and "the sform is taken" in scan.notes[0]
    assert noted["lie up to 40 apart"].volume.affine[0, 3] == pytest.approx(50 - 1.5 * 8), "the sform wins"
    for sform, codes in ((near, (1, 1)), (far, (4, 1)), (AFFINE, (1, 1))):
        assert nifti.read_scan(both(tmp_path / "c.nii", sform, AFFINE, codes)).notes == ()


def test_negative_voxel_sizes_say_nothing_on_the_screen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = nifti.read(save(tmp_path / "a.nii"))
    volume = nifti.read(patch(tmp_path / "a.nii", 80, struct.pack("<fff", -1.5, -2.0, -1.25)))
    assert np.array_equal(volume.affine, whole.affine)
    image = nib.Nifti1Image(VOXELS, None)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "q.nii")
    volume = nifti.read(patch(tmp_path / "q.nii", 80, struct.pack("<fff", -1.5, -2.0, -1.25)))
    assert np.allclose(volume.affine, whole.affine, atol=1e-5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_no_slope_means_that_nothing_is_scaled(tmp_path: Path, slope: float) -> None:
    scan = nifti.read_scan(patch(save(tmp_path / "a.nii"), 112, struct.pack("<ff", slope, 5.0)))
    assert np.array_equal(scan.volume.voxels, VOXELS[::-1]) and scan.quantum == (1.0, 0.0)


@pytest.mark.parametrize("dims", [(4, 9, 10, 11, 0), (4, 9, 10, 11, 1), (7, 9, 10, 11, 1, 0, 1, 0), (3, 9, 10, 11, 5)])
def test_dimensions_without_extent_are_none(tmp_path: Path, dims: tuple[int, ...]) -> None:
    path = patch(save(tmp_path / "a.nii"), 40, struct.pack("<8h", *dims, *[1] * (8 - len(dims))))
    assert np.array_equal(nifti.read(path).voxels, VOXELS[::-1])


def test_gzip_in_several_members_is_read_whole(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(b"".join(gzip.compress(whole[k : k + 500]) for k in range(0, len(whole), 500)))
    assert np.array_equal(nifti.read(tmp_path / "a.nii.gz").voxels, VOXELS[::-1])


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
    pair = patch(save(folder / "pair.nii"), 344, b"ni1\0")
    analyze = patch(save(folder / "analyze.nii"), 344, bytes(4))
    bare_gz, gz_bare = folder / "bare.nii.gz", folder / "gz.nii"
    bare_gz.write_bytes(flat.read_bytes())
    gz_bare.write_bytes(gzip.compress(flat.read_bytes()))
    annex, lfs, page, archive = (folder / f"{name}.nii.gz" for name in ("annex", "lfs", "page", "zip"))
    annex.write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    lfs.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    page.write_text("\n<!DOCTYPE html><html>503</html>")
    archive.write_bytes(b"PK\x03\x04" + bytes(400))
    return {
        "pair": (pair, "header of a pair"),
        "analyze": (analyze, "no NIfTI magic"),
        "bare gz": (bare_gz, "is not gzip, although its name says so: a bare NIfTI image"),
        "gz bare": (gz_bare, "is gzip inside"),
        "annex": (annex, "git-annex pointer"),
        "lfs": (lfs, "Git LFS pointer"),
        "page": (page, "web page"),
        "zip": (archive, "ZIP"),
        "no dims": (patch(save(folder / "no_dims.nii"), 40, struct.pack("<h", 0)), "is empty"),
        "type": (patch(save(folder / "type.nii"), 70, struct.pack("<h", 9999)), "cannot be read"),
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
        "text gz": (text_gz, "is not gzip"),
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
