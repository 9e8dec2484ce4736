"""The one door to image files: NIfTI-1, NIfTI-2 and FreeSurfer MGH in, NIfTI-1 with a fresh header out.

Nothing of a source's header is ever copied: free-text fields and extensions are where patient names live. Out of a header come the
affine, the unit of length and the intensity scaling, and nothing else.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import DTypeLike, NDArray

from volgen.core.errors import UserError
from volgen.core.files import atomic_path
from volgen.core.volume import Volume, shear

SUFFIXES = (".nii", ".nii.gz", ".mgh", ".mgz")
ALIGNED = 2
"""Transform code of everything volgen writes: world coordinates are anatomical and in mm, but the grid is no longer the scanner's own
(1 would claim that), nor a template's (3, 4)."""
SHEAR = 1e-4
"""Largest cosine between two axes that counts as rounding: 0.006 degrees, 0.013 mm at the edge of a head."""
_DEFLATE_LIMIT = 1032
"""DEFLATE cannot shrink data by more (RFC 1951: 258 bytes in 2 bits)."""
_LARGEST_VOXEL = 1000.0
"""Voxel edge in mm beyond which a header is damaged or in the wrong unit."""
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_HEADER = 560
_FOOTER = 1 << 16
"""Bytes kept after the voxels: MGH files have scan parameters there."""
_LARGEST_EXCESS = 1 << 24
"""Bytes after the voxels beyond which a packed file is no image but a bomb."""
_LARGEST_FILE = 1 << 33
"""Bytes of a header and its voxels: 1024^3 in float64."""


@dataclass(frozen=True)
class Scan:
    """A file as it was stored.

    Attributes:
        volume: canonical RAS+, float32, scanner units.
        orientation: axis codes of the file, such as ``LIA``.
        shape: voxels along the file's own axes.
        quantum: ``(slope, inter)`` if the file stores integers, so that values are ``slope * k + inter``; else None.
    """

    volume: Volume
    orientation: str
    shape: tuple[int, int, int]
    quantum: tuple[float, float] | None


def is_image(path: Path) -> bool:
    """Whether the name is one that :func:`read` accepts, in upper or lower case."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """File name without the image suffix (``.nii.gz`` is one suffix)."""
    name = path.name
    return next((name[: -len(end)] for end in (".nii.gz", *SUFFIXES) if name.lower().endswith(end)), path.stem)


def read(path: Path) -> Volume:
    """Canonical RAS+ volume in scanner units, float32; see :func:`read_scan`.

    Raises:
        UserError: the file cannot be used; ``found`` is the reason.
    """
    return read_scan(path).volume


def read_scan(path: Path) -> Scan:
    """Reads ``.nii``, ``.nii.gz``, ``.mgh`` or ``.mgz`` and checks that it is one 3D image with a usable geometry.

    Sizes are checked against the file before memory is taken, and a gzip trailer is always reached, so that a cut or flipped file is an
    error and not an image. A fourth dimension of length 1 is dropped.

    Raises:
        UserError: the file cannot be used; ``found`` is the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", "an image (" + ", ".join(SUFFIXES) + ")") from None
    except (EOFError, struct.error):
        raise UserError(str(path), "is truncated", "a whole file", "copy it again") from None
    except Exception as error:  # any library failure on a foreign file is the file's fault, and has to name it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(str(path), f"cannot be read ({reason})", "an image (" + ", ".join(SUFFIXES) + ")") from None


def write(path: Path, volume: Volume, *, dtype: Literal["float32", "int16"] = "float32", description: str = "") -> None:
    """Writes NIfTI-1 atomically, gzip-compressed if the name ends in ``.gz``; equal volumes give equal bytes.

    The header is built here: sform and qform hold the same affine, units are mm and seconds. ``int16`` scales linearly over the full
    range (nothing is clipped); whole numbers that fit are kept as they are.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        volume: axes in any orientation; axes at right angles.
        dtype: how voxels are stored.
        description: free text for the header, at most 79 bytes.

    Raises:
        UserError: another suffix, or voxels that are not finite.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UserError(str(path), "has another suffix", ".nii or .nii.gz")
    if not np.isfinite(volume.voxels).all():
        raise UserError(str(path), "the volume holds NaN or infinity", "finite voxels")
    voxels, slope, inter = _as_int16(volume.voxels) if dtype == "int16" else (volume.voxels.astype("<f4"), 1.0, 0.0)
    head = header(volume.shape, volume.affine, voxels.dtype, slope, inter, description)
    with atomic_path(path) as temporary, temporary.open("wb") as raw:
        if path.name.endswith(".gz"):
            # An empty name and time 0 keep the temporary name and the clock out of the file.
            with igzip.IGzipFile(filename="", mode="wb", compresslevel=2, fileobj=raw, mtime=0) as packed:
                _write_to(packed, head, voxels)
        else:
            _write_to(raw, head, voxels)


def header(
    shape: tuple[int, int, int], affine: NDArray[np.float64], dtype: DTypeLike, slope: float, inter: float, description: str = ""
) -> bytes:
    """A fresh little-endian NIfTI-1 header of 348 bytes; ``value = slope * stored + inter``."""
    fresh = nib.Nifti1Header(endianness="<")
    fresh.set_data_shape(shape)
    fresh.set_data_dtype(np.dtype(dtype))
    # The quaternion first: set_sform writes voxel sizes of its own only through pixdim, which both must share.
    fresh.set_qform(affine, code=ALIGNED, strip_shears=True)
    fresh.set_sform(affine, code=ALIGNED)
    fresh.set_xyzt_units("mm", "sec")
    fresh.set_slope_inter(slope, inter)
    fresh["magic"], fresh["vox_offset"] = b"n+1", 352
    fresh["descrip"] = description.encode("ascii", "replace")[:79]
    return bytes(fresh.binaryblock)


def _write_to(stream: IO[bytes] | igzip.IGzipFile, head: bytes, voxels: NDArray[Any]) -> None:
    stream.write(head + b"\0\0\0\0")
    stream.write(np.asfortranarray(voxels).T.data)


def _as_int16(voxels: NDArray[Any]) -> tuple[NDArray[np.int16], float, float]:
    low, high = float(voxels.min()), float(voxels.max())
    if low >= -32768 and high <= 32767 and bool((voxels == np.rint(voxels)).all()):
        return voxels.astype("<i2"), 1.0, 0.0
    slope = float(np.nextafter(np.float32((high - low) / 65535), np.float32(np.inf)))
    inter = float(np.float32(low + 32768 * slope))
    return np.clip(np.rint((voxels.astype(np.float64) - inter) / slope), -32768, 32767).astype("<i2"), slope, inter


def _read(path: Path) -> Scan:
    if not is_image(path):
        raise UserError(str(path), "is not an image file", "a name ending in " + ", ".join(SUFFIXES))
    size = path.stat().st_size
    if size == 0:
        raise UserError(str(path), "is an empty file", "an image")
    packed = path.name.lower().endswith((".gz", ".mgz"))
    with igzip.open(path, "rb") if packed else path.open("rb") as stream:
        first = stream.read(_HEADER)
        kind = _image_class(path, first)
        # Unchecked: nibabel's checks turn a voxel size of 0 into 1 without a word.
        image_header = kind.header_class.from_fileobj(io.BytesIO(first.ljust(_HEADER, b"\0")), check=False)
        dims = tuple(int(n) for n in image_header.get_data_shape())  # MGH gives int32, which overflows and is no JSON
        shape = _spatial_shape(path, dims)
        needed = math.prod(dims) * image_header.get_data_dtype().itemsize
        if needed > (size * _DEFLATE_LIMIT if packed else size):
            grid = " x ".join(str(n) for n in shape)
            found = f"is truncated or damaged: its header claims {grid} voxels, {needed} bytes, in a file of {size} bytes"
            raise UserError(str(path), found, "a whole file")
        wanted = int(image_header.get_data_offset()) + needed
        if not 0 < wanted <= _LARGEST_FILE:
            raise UserError(str(path), f"claims {wanted} bytes", f"at most {_LARGEST_FILE} bytes")
        content = first + stream.read(max(0, wanted + _FOOTER - len(first)))
        if packed:
            _drain(path, stream)
    if len(content) < wanted:
        raise UserError(str(path), f"is truncated: {len(content)} bytes of {wanted}", "a whole file", "copy it again")
    image = kind.from_bytes(content)
    return _scan(path, image, shape, image_header)


def _drain(path: Path, stream: IO[bytes]) -> None:
    """To the gzip trailer, whose checksum is compared there, without keeping what comes on the way: it may be a thousand times the file."""
    excess = 0
    while more := len(stream.read(1 << 20)):
        excess += more
        if excess > _LARGEST_EXCESS:
            raise UserError(str(path), f"goes on for more than {_LARGEST_EXCESS} bytes after its voxels", "an image and nothing else")


def _image_class(path: Path, first: bytes) -> Any:
    """The nibabel class, from the file's own first bytes: names lie."""
    freesurfer = path.name.lower().endswith((".mgh", ".mgz"))
    if len(first) < 348 and not freesurfer:
        raise EOFError
    if freesurfer:
        if len(first) < 284:
            raise EOFError
        if struct.unpack(">h", first[28:30])[0] < 1:  # nibabel would put FreeSurfer's default in its place
            found = "states no orientation (goodRASFlag is 0), so left and right cannot be told apart"
            raise UserError(str(path), found, "an image that says where it lies", "set it, for example with mri_convert")
        return nib.MGHImage
    sizes = {struct.unpack(order + "i", first[:4])[0] for order in "<>"}
    if 348 in sizes:
        return nib.Nifti1Image
    if 540 in sizes:
        return nib.Nifti2Image
    raise UserError(str(path), "is not NIfTI inside", "a NIfTI header of 348 or 540 bytes")


def _spatial_shape(path: Path, dims: tuple[int, ...]) -> tuple[int, int, int]:
    if any(n < 1 for n in dims):
        raise UserError(str(path), f"is empty: its dimensions are {list(dims)}", "a 3D image")
    if len(dims) > 3 and any(n > 1 for n in dims[3:]):
        raise UserError(str(path), f"is {len(dims)}D: its dimensions are {list(dims)}", "one 3D image", "extract one volume first")
    if len(dims) < 3 or min(dims[:3]) == 1:
        raise UserError(str(path), f"is 2D: its dimensions are {list(dims)}", "a 3D image")
    return dims[0], dims[1], dims[2]


def _scan(path: Path, image: Any, shape: tuple[int, int, int], raw: Any) -> Scan:
    affine = _affine(path, image, raw)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise UserError(str(path), f"holds {'complex numbers' if dtype.kind == 'c' else 'colours, not intensities'}", "real intensities")
    proxy = image.dataobj
    stored = np.asarray(proxy.get_unscaled()).reshape(shape)
    slope, inter = float(proxy.slope), float(proxy.inter)
    voxels = stored.astype(np.float32) if (slope, inter) == (1.0, 0.0) else (stored.astype(np.float64) * slope + inter).astype(np.float32)
    volume = Volume(voxels, affine)
    quantum = (slope, inter) if dtype.kind in "iu" and slope != 0 else None
    return Scan(volume.reoriented("RAS"), volume.orientation, shape, quantum)


def _affine(path: Path, image: Any, raw: Any) -> NDArray[np.float64]:
    """Voxel -> mm, checked: no axis of zero length, none parallel or sheared, and an orientation that the file really states."""
    affine = np.array(image.affine, dtype=np.float64)
    if isinstance(image, nib.Nifti1Image):
        sform, qform = int(raw["sform_code"]), int(raw["qform_code"])
        if not (sform or qform):
            found = "states no orientation (sform_code and qform_code are 0), so left and right cannot be told apart"
            raise UserError(str(path), found, "an sform or a qform", "set one, for example with fslorient or nibabel")
        if not sform and min(abs(raw["pixdim"][1:4])) == 0:
            affine[:3, :3] = 0.0
        affine[:3] *= _MILLIMETRES.get(int(image.header["xyzt_units"]) & 7, 1.0)
    if not np.isfinite(affine).all():
        raise UserError(str(path), "has an affine that is not finite", "a finite affine")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() < 1e-6:
        raise UserError(str(path), f"has a voxel size of zero: {[round(float(s), 6) for s in sizes]} mm", "positive voxel sizes")
    if sizes.max() > _LARGEST_VOXEL:
        found = f"has an impossible voxel size: {[float(f'{s:.6g}') for s in sizes]} mm"
        raise UserError(str(path), found, f"at most {_LARGEST_VOXEL:g} mm", "check the header's unit of length")
    if (cosine := shear(affine)) > SHEAR:
        raise UserError(str(path), f"has a sheared affine (cosine between axes {cosine:.4g})", "axes at right angles", "resample it first")
    return affine
