"""fastMRI's files, in the layout that is published: written by h5py, as no file of it is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from volgen.commands.reconstruct.raw import RawData
from volgen.core.errors import UserError
from volgen.data.raw import read_raw
from volgen.images.geometry import Geometry
from volgen.images.intensity import IntensityMap, to_model

EDGE, SLICES, MM = 16, 8, 4.0
GEOMETRY = Geometry((EDGE,) * 3, (MM,) * 3, IntensityMap(0.0, 1.0), skull_stripped=True)
HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{n}</x><y>{p}</y><z>{q}</z></matrixSize>
<fieldOfView_mm><x>{wide}</x><y>{high}</y><z>{thick}</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{half}</x><y>{p}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{narrow}</x><y>{high}</y><z>{thick}</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{middle}</center></kspace_encoding_step_1>
</encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def header(n: int, p: int, thick: float, q: int = 1) -> str:
    return HEADER.format(n=n, p=p, q=q, half=n // 2, wide=n * MM, narrow=n // 2 * MM, high=p * MM, thick=thick, last=p - 1, middle=p // 2)


def write(path: Path, images_scNP: Any, thick: float, **more: Any) -> Path:
    """Images of coils, in twice as wide a field along the readout, as k-space of slices."""
    edge = images_scNP.shape[2]
    wide = np.pad(images_scNP, [(0, 0), (0, 0), (edge // 2, edge // 2), (0, 0)])
    moved = np.fft.fft2(np.fft.ifftshift(wide, axes=(-2, -1)), norm="ortho")
    with h5py.File(path, "w") as file:
        file["kspace"] = np.fft.fftshift(moved, axes=(-2, -1)).astype(np.complex64)
        file["ismrmrd_header"] = header(2 * edge, images_scNP.shape[3], thick)
        for name, value in more.items():
            file[name] = value
        file.attrs["acquisition"] = "AXT1"
    return path


def head() -> Any:
    """A smooth volume [X, Y, Z] in [0, 1] whose three axes are unlike, and unlike when turned round."""
    x, y, z = np.meshgrid(*[np.arange(EDGE) - 7.5] * 3, indexing="ij")
    body = np.exp(-((x / 4) ** 4) - (y / 5) ** 4 - (z / 5.5) ** 4)
    return (body * (0.6 + 0.03 * x + 0.02 * y + 0.025 * z)).astype(np.float32)


def test_slices_are_images_of_one_k_space(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = (rng.standard_normal((5, 2, 12, 10)) + 1j * rng.standard_normal((5, 2, 12, 10))).astype(np.complex64)
    mask = np.arange(10) % 3 != 1
    scan = read_raw(write(tmp_path / "brain.h5", images, 5.0, mask=mask), spacing=6.0)
    assert scan.shape == (12, 10, 5) and not scan.located and scan.stack is not None
    assert (scan.stack.thickness, scan.stack.spacing) == (5.0, 6.0)
    np.testing.assert_array_equal(scan.mask_PQ, np.repeat(mask[:, None], 5, axis=1))
    axes = (1, 2, 3)
    shown = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(scan.kspace_cNPQ, axes=axes), axes=axes, norm="ortho"), axes=axes)
    lines = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(images, axes=3), axis=3, norm="ortho"), axes=3) * mask
    expected = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(lines, axes=3), axis=3, norm="ortho"), axes=3)
    np.testing.assert_allclose(shown, np.moveaxis(expected, 0, -1), atol=1e-5)
    # Readout to P, phase to L, slices to S; the middle of the stack is the origin.
    np.testing.assert_allclose(scan.affine[:3, :3], [[0, -MM, 0], [-MM, 0, 0], [0, 0, 6.0]], atol=1e-6)
    np.testing.assert_allclose(scan.affine @ [6, 5, 2, 1], [0, 0, 0, 1], atol=1e-6)
    downwards = read_raw(tmp_path / "brain.h5", orientation="ARI")
    np.testing.assert_allclose(downwards.affine[:3, :3], [[0, MM, 0], [MM, 0, 0], [0, 0, 5.0]], atol=1e-6)
    # A file of one coil has one axis less.
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = np.ones((5, 24, 10), np.complex64), header(24, 10, 5.0)
    assert read_raw(tmp_path / "one.h5").kspace_cNPQ.shape == (1, 12, 10, 5)


@pytest.mark.parametrize(("thick", "count", "orientation", "centre"), [(2 * MM, 8, None, None), (1.5 * MM, 10, "ARS", "grid")])
def test_a_head_that_was_acquired_in_slices_explains_them_where_it_is(
    tmp_path: Path, thick: float, count: int, orientation: str | None, centre: Any
) -> None:
    """Slices are means over what lies in them; the axes of a file that says nothing lead to P, L and S, so its arrays are turned round."""
    borders = np.arange(count + 1) * thick / MM
    volume, total = head(), np.zeros((EDGE, EDGE, EDGE + 1))
    total[..., 1:] = volume.cumsum(axis=2)
    until = [[np.interp(border, np.arange(EDGE + 1), line) for border in borders] for line in total.reshape(-1, EDGE + 1)]
    slices = np.diff(np.array(until), axis=1).reshape(EDGE, EDGE, count) * MM / thick
    images = (slices if orientation else slices[::-1, ::-1]).transpose(2, 1, 0)[:, None]  # [slice, coil, readout, phase]
    raw = RawData(write(tmp_path / "brain.h5", images, thick), 0.01, centre, orientation)
    measured = raw.read("0001", GEOMETRY, torch.device("cpu"))
    seen = measured.seen
    truth = to_model(torch.from_numpy(seen.window.to_unit(volume)))[None, None]
    data, operator = seen.measurement.data, seen.measurement.operator
    size = float(torch.linalg.vector_norm(data - operator.apply(torch.full_like(truth, -1.0))))
    assert float(torch.linalg.vector_norm(data - operator.apply(truth))) < 0.02 * size
    for turned in (truth.flip(2), truth.flip(3), truth.flip(4), truth.roll(1, 4)):
        assert float(torch.linalg.vector_norm(data - operator.apply(turned))) > 0.05 * size, "it lies there, and no other way round"
    x, d = torch.randn(truth.shape), torch.randn_like(data)
    forth, back = (operator.apply(x).conj() * d).real.sum(), (x * operator.adjoint(d)).sum()
    torch.testing.assert_close(forth, back, rtol=1e-4, atol=1e-3)


def test_files_that_cannot_be_used_give_one_message(tmp_path: Path) -> None:
    good = np.ones((5, 2, 8, 8), np.complex64)
    for name, content, message in (
        ("thin", {"kspace": good[:2], "ismrmrd_header": header(8, 8, 5.0)}, "has 2 slices"),
        ("flat", {"kspace": good[0, 0], "ismrmrd_header": header(8, 8, 5.0)}, r"k-space of \[8, 8\]"),
        ("real", {"kspace": good.real, "ismrmrd_header": header(8, 8, 5.0)}, "k-space of float32"),
        ("text", {"kspace": good, "ismrmrd_header": "no XML"}, "header that cannot be read"),
        ("slab", {"kspace": good, "ismrmrd_header": header(8, 8, 5.0, q=9)}, "9 phase encodes across it"),
        ("mask", {"kspace": good, "ismrmrd_header": header(8, 8, 5.0), "mask": np.ones(9)}, r"a mask of \[9\]"),
        ("none", {"kspace": 0 * good, "ismrmrd_header": header(8, 8, 5.0)}, "nothing but zeros"),
    ):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for key, value in content.items():
                file[key] = value
        with pytest.raises(UserError, match=message) as raised:
            read_raw(tmp_path / f"{name}.h5")
        assert f"{name}.h5" in str(raised.value)
    write(tmp_path / "good.h5", good, 5.0)
    for orientation in ("PL", "PPS", "XYZ"):
        with pytest.raises(UserError, match="--orientation"):
            read_raw(tmp_path / "good.h5", orientation=orientation)
    with pytest.raises(UserError, match="--spacing"):
        read_raw(tmp_path / "good.h5", spacing=-1.0)
    np.savez(tmp_path / "scan.npz", kspace=np.ones((2, 6, 6, 6), np.complex64), affine=np.eye(4))
    with pytest.raises(UserError, match="say it themselves"):
        read_raw(tmp_path / "scan.npz", spacing=2.0)
