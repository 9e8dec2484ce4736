"""Raw data of scanners: a file that ismrmrd-python wrote, arrays, and files that are not to be believed."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from volgen.core.errors import UserError
from volgen.data.raw import RawScan, compressed, read_raw, rim_noise, whitened
from volgen.data.upright import calibration, on_voxels_of, upright
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap

AXES = (1, 2, 3)
MIX = np.array([[1, 0.3, 0], [0, 1, 0.2j], [0.1, 0, 1.5]])
GEOMETRY = Geometry((16, 16, 16), (14.0, 14.0, 14.0), IntensityMap(0.0, 1.0), skull_stripped=True)


@pytest.fixture
def scan_file(repository: Path, tmp_path: Path) -> Path:
    path = tmp_path / "ismrmrd.h5"
    path.write_bytes(lzma.decompress((repository / "tests/fixtures/ismrmrd.h5.xz").read_bytes()))
    return path


def image_of(kspace: Any) -> Any:
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes=AXES), axes=AXES, norm="ortho"), axes=AXES)


def kspace_of(image: Any) -> Any:
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, axes=AXES), axes=AXES, norm="ortho"), axes=AXES).astype(np.complex64)


def test_a_file_of_ismrmrds_own_tools_is_the_scan_that_was_written(scan_file: Path) -> None:
    scan = read_raw(scan_file)
    assert scan.shape == (12, 12, 8), "the readout was oversampled twice"
    p, q = np.meshgrid(np.arange(12), np.arange(8), indexing="ij")
    wanted = (p >= 2) & (((abs(q - 4) <= 2) & (abs(p - 6) <= 2)) | ((p + q) % 2 == 0))
    np.testing.assert_array_equal(scan.mask_PQ, wanted)
    # LPS directions S, L and P, the middle of the field at L 5, A 3, S 7; the image's middle is voxel edge // 2.
    np.testing.assert_allclose(scan.affine[:3, :3], 14.0 * np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]), atol=1e-6)
    np.testing.assert_allclose(scan.affine @ [6, 6, 4, 1], [-5, 3, 7, 1], atol=1e-4)
    # Half of k-space is missing, and yet the head is where it was: brighter behind the middle of the readout.
    shown = np.linalg.norm(image_of(scan.kspace_cNPQ), axis=0)
    x, y, z = np.meshgrid(np.arange(12) - 6, np.arange(12) - 6, np.arange(8) - 4, indexing="ij")
    head = np.where((x / 5) ** 2 + (y / 4.5) ** 2 + (z / 3) ** 2 < 1, 1.0, 0.0) * (1 + 0.5 * (x > 1))
    assert np.corrcoef(shown.ravel(), head.ravel())[0, 1] > 0.8
    assert np.corrcoef(shown[::-1].ravel(), head.ravel())[0, 1] < 0.75
    assert scan.noise == pytest.approx(1.0)


def test_noise_is_made_white(scan_file: Path) -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * MIX @ (rng.standard_normal((3, 40000)) + 1j * rng.standard_normal((3, 40000)))
    white = whitened(noise.astype(np.complex64), noise.astype(np.complex64))
    np.testing.assert_allclose(white @ white.conj().T / white.shape[1], 2 * np.eye(3), atol=1e-3)
    grid = white[:, : 24 * 20 * 10].reshape(3, 24, 20, 10)
    assert rim_noise(grid, np.ones((20, 10), dtype=bool)) == pytest.approx(1.0, rel=0.05)
    with pytest.raises(ValueError, match="no noise"):
        whitened(np.ones((2, 8), np.complex64), np.zeros((2, 8), np.complex64))


def test_compression_keeps_the_signal_and_the_noise() -> None:
    rng = np.random.default_rng(1)
    two = rng.standard_normal((2, 8, 8, 8)) + 1j * rng.standard_normal((2, 8, 8, 8))
    mix = np.linalg.qr(rng.standard_normal((12, 2)))[0]
    scan = RawScan(np.tensordot(mix, two, axes=1).astype(np.complex64), np.ones((8, 8), bool), np.eye(4), 1.0, True)
    small = compressed(scan)
    assert small.kspace_cNPQ.shape == (2, 8, 8, 8)
    assert np.linalg.norm(small.kspace_cNPQ) == pytest.approx(np.linalg.norm(two), rel=1e-5)


@pytest.mark.parametrize("size", [14.0, 28.0, 10.0])
def test_turning_and_cropping_leave_a_head_where_it_was(size: float) -> None:
    """A smooth spot in a field whose axes are another order, run the other way and have odd and even edges stays at its mm."""
    shape = (24, 20, 20)
    affine = np.array([[0, -7.0, 0, 60], [0, 0, -7.0, 44], [7.0, 0, 0, -90], [0, 0, 0, 1]])
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    spot = np.exp(-(((voxels - (15, 7, 11)) / 3.0) ** 2).sum(axis=-1))
    place = (affine @ [15, 7, 11, 1])[:3]
    scan = RawScan(kspace_of(spot[None]), np.ones((20, 20), bool), affine, 1.0, True)
    geometry = Geometry((16, 16, 16), (size,) * 3, IntensityMap(0.0, 1.0), skull_stripped=True)
    turned = on_voxels_of(upright(scan, "scan"), geometry, "scan")
    np.testing.assert_allclose(np.linalg.norm(turned.affine[:3, :3], axis=0), size, rtol=0.03)
    assert (np.diag(turned.affine)[:3] > 0).all()
    shown = np.abs(image_of(turned.kspace_cXYZ))[0] ** 2
    where = [(shown.sum(axis=tuple(other for other in range(3) if other != axis)) * np.arange(shown.shape[axis])).sum() / shown.sum()
             for axis in range(3)]  # fmt: skip
    np.testing.assert_allclose((turned.affine @ [*where, 1])[:3], place, atol=0.1 * size)


def test_the_centre_of_k_space_has_the_intensities_of_the_image(scan_file: Path) -> None:
    turned = on_voxels_of(upright(read_raw(scan_file), "scan"), GEOMETRY, "scan")
    coarse = calibration(turned, "scan")
    assert coarse.shape[1:] == (4, 4, 12), "R and A are phase encodes, S the readout"
    whole = np.linalg.norm(image_of(turned.kspace_cXYZ), axis=0)
    assert np.linalg.norm(coarse, axis=0).max() == pytest.approx(whole.max(), rel=0.6)
    with pytest.raises(UserError, match="along the readout"):
        on_voxels_of(upright(read_raw(scan_file), "scan"), Geometry((16,) * 3, (7.0,) * 3, IntensityMap(0, 1), skull_stripped=True), "scan")


def arrays(**more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"kspace": (rng.standard_normal((2, 6, 6, 6)) + 0j).astype(np.complex64), "affine": np.eye(4), **more}


def test_files_that_cannot_be_used_give_one_message(tmp_path: Path, scan_file: Path) -> None:
    good = scan_file.read_bytes()
    (tmp_path / "cut.h5").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "secret.h5").write_bytes(good)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file["dataset"] = h5py.ExternalLink("secret.h5", "/dataset")
    with h5py.File(tmp_path / "soft.h5", "w") as file:
        file.create_group("dataset")["xml"] = h5py.SoftLink("/elsewhere")
    with h5py.File(tmp_path / "stored_elsewhere.h5", "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("data", (4,), "f4", external=[("secret.h5", 0, 16)])
        group.create_dataset("xml", (4,), "u1", external=[("secret.h5", 0, 4)])
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", (2**45,), "u1", chunks=(2**20,))
        group["data"] = np.zeros(1)
    for name, xml in (("bomb", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"), ("other", "<a/>")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            group = file.create_group("dataset")
            group["xml"], group["data"] = np.array([xml.encode()], dtype=object).astype("S"), np.zeros(3)
    np.savez(tmp_path / "nan.npz", **arrays(kspace=np.full((2, 6, 6, 6), np.nan, np.complex64)))
    np.savez(tmp_path / "flat.npz", **arrays(kspace=np.ones((6, 6, 6), np.complex64)))
    np.savez(tmp_path / "real.npz", **arrays(kspace=np.ones((2, 6, 6, 6))))
    np.savez(tmp_path / "mask.npz", **arrays(mask=np.ones((5, 6))))
    np.savez(tmp_path / "nowhere.npz", kspace=arrays()["kspace"])
    np.savez(tmp_path / "pickled.npz", kspace=np.array([{"a": 1}], dtype=object), affine=np.eye(4))
    np.savez(tmp_path / "nothing.npz", **arrays(kspace=np.zeros((2, 6, 6, 6), np.complex64)))
    np.savez(tmp_path / "good.npz", **arrays())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
    for name, message in {
        "cut.h5": "cannot be read as HDF5", "text.h5": "cannot be read as HDF5", "external.h5": "of no form that is known",
        "soft.h5": "of no form that is known", "stored_elsewhere.h5": "lies in other files", "huge.h5": "claims",
        "bomb.h5": "header that cannot be read", "other.h5": "header that cannot be read", "nan.npz": "NaN", "flat.npz": "has a k-space of",
        "real.npz": "has a k-space of", "mask.npz": "has a mask of", "nowhere.npz": "has no affine", "pickled.npz": "cannot be read",
        "nothing.npz": "nothing but zeros", "cut.npz": "cannot be read", "missing.h5": "there is no such file",
        "missing.npz": "there is no such file",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message) as raised:
            read_raw(tmp_path / name)
        assert name in str(raised.value)
    assert read_raw(tmp_path / "good.npz").noise > 0
