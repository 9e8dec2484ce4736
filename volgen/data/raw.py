"""Raw data of a scanner: Cartesian k-space as files have it, made ready for a reconstruction.

Legend: c coils, N the readout, P and Q the phase encodes. Noise is made white, coils are compressed, and everything that a file says of
where the image lies becomes one affine.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.files import open_plain
from volgen.core.limits import grid_fits
from volgen.data.fastmri import SliceStack, is_fastmri, read_fastmri
from volgen.data.hdf5 import open_hdf5
from volgen.data.ismrmrd import header_of, read_acquisitions

Complex = NDArray[np.complex64]
SUFFIXES = (".h5", ".hdf5", ".mrd", ".npz")
KEPT_ENERGY = 0.995
"""Share of the signal's energy that compressed coils keep."""
MOST_COILS = 8
"""Coils after compression, at most."""
RIM = 0.08
"""Share of the readout, at each end, whose samples have noise and hardly any signal: from them it is estimated where nobody measured it."""


@dataclass(frozen=True)
class RawScan:
    """One 3D scan, in k-space.

    Attributes:
        kspace_cNPQ: complex64, with the centre of k-space at edge // 2 of N, P and Q, and zeros where nothing was measured.
        mask_PQ: bool, which phase encodes were measured.
        affine: 4 x 4, voxels of the image [N, P, Q] -> mm of RAS+.
        noise: standard deviation of the real and of the imaginary part of the noise, white and alike in all coils.
        located: whether the file says where the image lies; else it lies in the origin, along the axes of the body.
        stack: slices along Q that were each acquired by themselves, so that k-space along Q is their transform; None of a volume.
    """

    kspace_cNPQ: Complex
    mask_PQ: NDArray[np.bool_]
    affine: NDArray[np.float64]
    noise: float
    located: bool
    stack: SliceStack | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the image along N, P and Q."""
        _, n, p, q = self.kspace_cNPQ.shape
        return n, p, q


def is_raw(path: Path) -> bool:
    """Whether the name is one of raw data, in upper or lower case."""
    return path.name.lower().endswith(SUFFIXES)


def read_raw(path: Path, orientation: str | None = None, spacing: float | None = None) -> RawScan:
    """Reads a scan: ISMRMRD or fastMRI (``.h5``), or arrays (``.npz``).

    Args:
        path: the file.
        orientation: where readout, phase encode and slices of fastMRI lead (:func:`volgen.data.fastmri.read_fastmri`).
        spacing: how many mm it is from a slice of fastMRI to the next.

    Raises:
        UserError: it is missing, damaged, of another form, no Cartesian scan, or holds NaN; or it says itself how its image lies.
    """
    scan = _of_arrays(path) if path.name.lower().endswith(".npz") else _of_hdf5(path, orientation, spacing)
    if scan.stack is None and (orientation is not None or spacing is not None):
        raise UserError("--orientation" if orientation is not None else "--spacing", "is there", "none: these data say it themselves")
    if not np.isfinite(scan.kspace_cNPQ.view(np.float32)).all():
        raise UserError(str(path), "holds NaN or infinite numbers", "finite k-space")
    if not scan.mask_PQ.any() or not np.abs(scan.kspace_cNPQ).max() > 0.0:
        raise UserError(str(path), "holds nothing but zeros", "k-space of a scan")
    if not np.isfinite(scan.affine).all() or np.linalg.norm(scan.affine[:3, :3], axis=0).min() <= 0.0 or scan.noise < 0.0:
        raise UserError(str(path), "says nothing usable of where its voxels are, or of its noise", "a finite geometry")
    if not grid_fits(scan.shape):
        raise UserError(str(path), f"has a grid of {list(scan.shape)} voxels", "one that a machine can hold")
    return compressed(scan)


def whitened(data_cM: Complex, noise_cM: Complex) -> Complex:
    """Data of coils whose noise is white: alike in all, with variance 1 in the real and in the imaginary part.

    With the noise's covariance L L* (of complex numbers, halved for a part) it is L^-1 d.

    Args:
        data_cM: what is to be whitened.
        noise_cM: samples of noise alone, with as many or more samples than coils.

    Raises:
        ValueError: coils without noise, or fewer samples than coils.
    """
    coils, count = noise_cM.shape
    if count < 2 * coils:
        raise ValueError(f"{count} samples of noise for {coils} coils")
    covariance = noise_cM.astype(np.complex128) @ noise_cM.conj().T / (2 * count)
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        raise ValueError("a coil has no noise, or two have the same") from None
    return np.linalg.solve(lower, data_cM).astype(np.complex64)


def compressed(scan: RawScan, most: int = MOST_COILS, energy: float = KEPT_ENERGY) -> RawScan:
    """The same scan by fewer virtual coils: the leading singular vectors of the data (Buehrer et al. 2007). White noise stays white.

    Args:
        scan: its noise is white.
        most: coils that are kept at most.
        energy: share of the squared signal that they hold, if that takes fewer.
    """
    coils = len(scan.kspace_cNPQ)
    flat = scan.kspace_cNPQ[:, :, scan.mask_PQ].reshape(coils, -1)
    values, vectors = np.linalg.eigh(flat.astype(np.complex128) @ flat.conj().T)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    enough = int(np.searchsorted(np.cumsum(values) / max(values.sum(), 1e-300), energy)) + 1
    kept = min(coils, most, enough)
    if kept == coils:
        return scan
    mixed = np.tensordot(vectors[:, :kept].conj().T.astype(np.complex64), scan.kspace_cNPQ, axes=1)
    return replace(scan, kspace_cNPQ=np.ascontiguousarray(mixed))


def rim_noise(kspace_cNPQ: Complex, mask_PQ: NDArray[np.bool_]) -> float:
    """Standard deviation of a part of the noise, from both ends of the readout, where k-space has hardly any signal.

    It is that of the median, so that what signal there is does not count.
    """
    width = max(1, int(RIM * kspace_cNPQ.shape[1]))
    lines = kspace_cNPQ[:, :, mask_PQ]
    if not lines.size:
        return 0.0
    ends = np.concatenate([lines[:, :width].ravel(), lines[:, -width:].ravel()])
    return float(np.median(np.abs(ends)) / np.sqrt(2 * np.log(2)))  # of a Rayleigh distribution


def _of_hdf5(path: Path, orientation: str | None, spacing: float | None) -> RawScan:
    with open_hdf5(path) as file:
        if is_fastmri(file):
            found = read_fastmri(file, orientation, spacing)
            level = rim_noise(found.kspace_cNPQ, found.mask_PQ)
            slices = RawScan(found.kspace_cNPQ, found.mask_PQ, found.affine, level, located=False, stack=found.stack)
            return _cropped(slices, found.readout)
        groups = [name for name in file.groups() if file.has(f"{name}/xml") and file.has(f"{name}/data")]
        if not groups:
            raise UserError(str(path), "is HDF5, but of no form that is known", "ISMRMRD or fastMRI")
        header = header_of(file.read(f"{groups[0]}/xml"), str(path))
        lines = read_acquisitions(file.read(f"{groups[0]}/data"), header, str(path))
    kspace = lines.kspace_cNPQ
    if lines.noise_cM is None:
        noise = rim_noise(kspace, lines.mask_PQ)
    else:
        try:
            kspace, noise = whitened(kspace.reshape(len(kspace), -1), lines.noise_cM).reshape(kspace.shape), lines.noise_factor
        except ValueError as error:
            raise UserError(str(path), f"its noise scan cannot be used: {error}", "noise of every coil") from None
    return _cropped(RawScan(kspace, lines.mask_PQ, lines.affine, noise, located=True), header.readout)


def _cropped(scan: RawScan, readout: int) -> RawScan:
    """A scan whose readout was sampled more densely than the image has voxels: the field of view is as wide as the image."""
    edge = scan.shape[0]
    if readout >= edge:
        return scan
    first = edge // 2 - readout // 2
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(scan.kspace_cNPQ, axes=1), axis=1, norm="ortho"), axes=1)
    image = image[:, first : first + readout]
    kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, axes=1), axis=1, norm="ortho"), axes=1).astype(np.complex64)
    affine = scan.affine.copy()
    affine[:3, 3] += first * affine[:3, 0]
    return replace(scan, kspace_cNPQ=kspace, affine=affine)


def _of_arrays(path: Path) -> RawScan:
    """Arrays ``kspace``, complex [coils, N, P, Q], and ``affine``, voxels -> mm of RAS+; ``mask`` [P, Q] and ``noise`` if known."""
    what = "an .npz file with 'kspace' (complex [coils, readout, P, Q]) and 'affine' (4 x 4)"
    try:
        with open_plain(path, follow=True) as stream, np.load(stream, allow_pickle=False) as found:
            arrays: dict[str, Any] = {name: found[name] for name in ("kspace", "affine", "mask", "noise") if name in found.files}
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", what) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, MemoryError) as error:
        raise UserError(str(path), f"cannot be read ({' '.join(str(error).split())[:200]})", what) from None
    kspace, affine = arrays.get("kspace"), arrays.get("affine")
    if kspace is None or kspace.ndim != 4 or not np.iscomplexobj(kspace) or 0 in kspace.shape:
        raise UserError(str(path), f"has a k-space of {None if kspace is None else (kspace.dtype, kspace.shape)}", what)
    if affine is None or affine.shape != (4, 4) or affine.dtype.kind not in "fiu":
        raise UserError(str(path), "has no affine", what)
    kspace = kspace.astype(np.complex64)
    mask = arrays.get("mask", (kspace != 0).any(axis=(0, 1)))
    if mask.shape != kspace.shape[2:]:
        raise UserError(str(path), f"has a mask of {list(mask.shape)}", f"the phase encodes, {list(kspace.shape[2:])}")
    mask = mask.astype(bool)
    kspace = np.where(mask, kspace, 0)
    noise = arrays.get("noise")
    if noise is not None and (noise.size != 1 or noise.dtype.kind not in "fiu"):
        raise UserError(str(path), f"has a noise of {noise.dtype} {list(noise.shape)}", "one number")
    level = rim_noise(kspace, mask) if noise is None else float(noise.reshape(()))
    return RawScan(kspace, mask, affine.astype(np.float64), level, located=True)
