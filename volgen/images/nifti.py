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
from nibabel.freesurfer.mghformat import MGHHeader
from numpy.typing import DTypeLike, NDArray

from volgen.core.errors import UserError
from volgen.core.files import atomic_path
from volgen.images import orientation
from volgen.images.volume import Volume, shear

Image = nib.Nifti1Image
"""An image as nibabel has it, for those who know nibabel."""
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
_HEADER = 560
_PART = 1 << 20
"""Bytes read at a time of what is passed over."""
_START = 512
"""Bytes of a file that tell what it is."""
_GZIP = b"\x1f\x8b"
_NIFTI = tuple(struct.pack(order + "i", length) for order in "<>" for length in (348, 540))
_LARGEST_EXCESS = 1 << 24
"""Bytes after the voxels beyond which a packed file is no image but a bomb."""
_LARGEST_FILE = 1 << 33
"""Bytes of a header and its voxels: 1024^3 in float64."""


@dataclass(frozen=True)
class ImageFile:
    """A file as it was stored.

    Attributes:
        volume: canonical RAS+, float32, scanner units.
        orientation: axis codes of the file, such as ``LIA``.
        shape: voxels along the file's own axes.
        quantum: ``(slope, inter)`` if the file stores integers, so that values are ``slope * k + inter``; else None.
        intent: NIfTI's code of what the numbers are, such as 1002 for labels; 0 where nothing is said.
        notes: what was odd about the header and yet readable.
    """

    volume: Volume
    orientation: str
    shape: tuple[int, int, int]
    quantum: tuple[float, float] | None
    intent: int = 0
    notes: tuple[str, ...] = ()


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


def read_scan(path: Path) -> ImageFile:
    """Reads ``.nii``, ``.nii.gz``, ``.mgh`` or ``.mgz`` and checks that it is one 3D image with a usable geometry.

    Sizes are checked against the file before memory is taken, and a gzip trailer is always reached, so that a cut or flipped file is an
    error and not an image. A fourth dimension of length 1 is dropped. Header extensions are passed over, whatever their size.

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


def image(path: Path, *, in_memory: bool = False) -> Image:
    """What :func:`write` wrote, as nibabel's image; its voxels are read now, or when they are looked at."""
    if not in_memory:
        return nib.Nifti1Image.from_filename(path)
    with igzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as stream:
        return nib.Nifti1Image.from_bytes(stream.read())


def to_image(volume: Volume, description: str = "") -> Image:
    """A volume as nibabel's image, float32, with the header that :func:`write` gives it."""
    head = header(volume.shape, volume.affine, np.dtype("<f4"), 1.0, 0.0, description)
    return nib.Nifti1Image(volume.voxels.astype("<f4"), volume.affine, nib.Nifti1Header(head))


def of_image(given: Image) -> Volume:
    """An image of nibabel's as a canonical RAS+ volume, float32."""
    if len(given.shape) != 3:
        raise UserError("image", f"is {len(given.shape)}D: its dimensions are {list(given.shape)}", "one 3D image")
    affine = np.asarray(given.affine, dtype=np.float64)
    return Volume(np.asarray(given.get_fdata(dtype=np.float32)), affine).reoriented("RAS")


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


def _read(path: Path) -> ImageFile:
    if not is_image(path):
        raise UserError(str(path), "is not an image file", "a name ending in " + ", ".join(SUFFIXES))
    size = path.stat().st_size
    if size == 0:
        raise UserError(str(path), "is an empty file", "an image")
    packed = path.name.lower().endswith((".gz", ".mgz"))
    with path.open("rb") as raw:
        start = raw.read(_START)
    if (otherwise := _no_image(start, packed)) is not None:
        raise UserError(str(path), otherwise, "an image that fits its name")
    with igzip.open(path, "rb") if packed else path.open("rb") as stream:
        first = stream.read(_HEADER)
        head = _header(path, first)
        dims = tuple(int(n) for n in head.get_data_shape())  # MGH gives int32, which overflows and is no JSON
        shape = _spatial_shape(path, dims)
        dtype = head.get_data_dtype()
        needed = math.prod(shape) * dtype.itemsize
        most = size * _DEFLATE_LIMIT if packed else size
        if needed > most:
            grid = " x ".join(str(n) for n in shape)
            found = f"is truncated or damaged: its header claims {grid} voxels, {needed} bytes, in a file of {size} bytes"
            raise UserError(str(path), found, "a whole file")
        offset = _offset(path, head)
        if offset is not None and offset + needed > most:
            raise UserError(str(path), f"is truncated: {size} bytes of {offset + needed}", "a whole file", "copy it again")
        if (offset or 0) + needed > _LARGEST_FILE:
            raise UserError(str(path), f"claims {(offset or 0) + needed} bytes", f"at most {_LARGEST_FILE} bytes")
        if offset is None:
            content = _voxels_of_unknown_place(path, first, stream, head, needed)
        else:
            content = _voxels_at(path, first, stream, offset, needed)
        if packed:
            _drain(path, stream)
    return _scan(path, head, np.frombuffer(content, dtype).reshape(shape, order="F"))


def _voxels_at(path: Path, first: bytes, stream: IO[bytes], offset: int, needed: int) -> bytes:
    """The voxels' bytes. What lies before them (extensions, where names may be) is passed over, whatever it says of itself."""
    left = offset - len(first)
    while left > 0 and (passed := len(stream.read(min(left, _PART)))):
        left -= passed
    content = first[offset : offset + needed]
    content += stream.read(needed - len(content))
    if len(content) < needed:
        found = f"is truncated: {offset + len(content)} bytes of {offset + needed}"
        raise UserError(str(path), found, "a whole file", "copy it again")
    return content


def _voxels_of_unknown_place(path: Path, first: bytes, stream: IO[bytes], head: Any, needed: int) -> bytes:
    """The voxels of a file whose header does not say where they begin (``vox_offset`` 0): its end, if that fits what may lie in front.

    That is the header (348 bytes, as nifti_clib reads such a file), the header and four bytes that say whether there are extensions
    (352, as the standard wants it), or those and the extensions. nibabel would take the header for voxels.
    """
    content = first + stream.read(max(0, needed + _PART - len(first)))
    before, bare = len(content) - needed, len(bytes(head.binaryblock))
    places, order = [bare, bare + 4], "<" if head.endianness == "<" else ">"
    if content[bare : bare + 1] not in (b"", b"\0"):
        here = bare + 4
        while here + 8 <= before and 8 <= (length := struct.unpack(order + "i", content[here : here + 4])[0]) <= before - here:
            here += length
        places.append(here)
    if before not in places:
        found = f"does not say where its voxels begin (vox_offset is 0), and {before} bytes beside them fit no place"
        raise UserError(str(path), found, "a header that says it (352 without extensions)", "write it again, for example with nibabel")
    return content[before:]


def _drain(path: Path, stream: IO[bytes]) -> None:
    """Reads on to the gzip trailer, whose checksum is compared there, without keeping what may be a thousand times the file."""
    excess = 0
    while more := len(stream.read(_PART)):
        excess += more
        if excess > _LARGEST_EXCESS:
            raise UserError(str(path), f"goes on for more than {_LARGEST_EXCESS} bytes after its voxels", "an image and nothing else")


def _no_image(start: bytes, packed: bool) -> str | None:
    """What the first bytes of a file give away of what it is instead of an image that fits its name; None if nothing."""
    if start.startswith(b"/annex/objects") or b".git/annex/objects/" in start:
        return "is a git-annex pointer, and its content is not here (`git annex get` or `datalad get` fetches it)"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, and its content is not here (`git lfs pull` fetches it)"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page: a message was downloaded instead of the file"
    if start.startswith(b"PK\x03\x04"):
        return "is a ZIP archive: it has to be unpacked first"
    if packed and not start.startswith(_GZIP):
        found = "is not gzip, although its name says so"
        return f"{found}: a bare NIfTI image is inside, which .nii would fit" if start[:4] in _NIFTI else found
    if not packed and start.startswith(_GZIP):
        return "is gzip inside, which .nii.gz or .mgz would fit"
    return None


def _header(path: Path, first: bytes) -> Any:
    """The header as a nibabel object, from the file's own first bytes (names lie); nothing behind it is looked at.

    Unchecked: nibabel's checks turn a voxel size of 0 into 1, and what they say on the way does not name the file.
    """
    freesurfer = path.name.lower().endswith((".mgh", ".mgz"))
    if len(first) < (284 if freesurfer else 348):
        raise EOFError
    if freesurfer:
        if struct.unpack(">h", first[28:30])[0] < 1:  # nibabel would put FreeSurfer's default in its place
            found = "states no orientation (goodRASFlag is 0), so left and right cannot be told apart"
            raise UserError(str(path), found, "an image that says where it lies", "set it, for example with mri_convert")
        return MGHHeader.from_fileobj(io.BytesIO(first.ljust(_HEADER, b"\0")), check=False)
    kind: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
    for order in "<>":
        length = struct.unpack(order + "i", first[:4])[0]
        if length in kind:
            if len(first) < length:
                raise EOFError
            head = kind[length](first[:length], endianness=order, check=False)
            magic = bytes(head["magic"])[:3]
            if magic in (b"ni1", b"ni2"):
                raise UserError(str(path), "is the header of a pair (.hdr and .img)", "header and voxels in one file", "convert it first")
            if magic not in (b"n+1", b"n+2"):
                found = "has no NIfTI magic (ANALYZE 7.5?), so left and right cannot be told apart"
                raise UserError(str(path), found, "a NIfTI header", "convert it first")
            return head
    raise UserError(str(path), "is not NIfTI inside", "a NIfTI header of 348 or 540 bytes")


def _offset(path: Path, head: Any) -> int | None:
    """Where the voxels begin, in bytes, or None if the header does not say it."""
    if not isinstance(head, nib.Nifti1Header):
        return int(head.get_data_offset())
    stated = float(head["vox_offset"])
    if stated == 0:
        return None
    if not stated.is_integer() or not len(bytes(head.binaryblock)) <= stated <= _LARGEST_FILE:
        found = f"has voxels at byte {stated:g}, which is inside its header or nowhere"
        raise UserError(str(path), found, f"a vox_offset of at least {head.single_vox_offset}")
    return int(stated)


def _spatial_shape(path: Path, dims: tuple[int, ...]) -> tuple[int, int, int]:
    dims = (*dims[:3], *(n or 1 for n in dims[3:]))  # nifti_clib too takes 0 for 1 here
    if any(n < 1 for n in dims):
        raise UserError(str(path), f"is empty: its dimensions are {list(dims)}", "a 3D image")
    if len(dims) > 3 and any(n > 1 for n in dims[3:]):
        raise UserError(str(path), f"is {len(dims)}D: its dimensions are {list(dims)}", "one 3D image", "extract one volume first")
    if len(dims) < 3 or min(dims[:3]) == 1:
        raise UserError(str(path), f"is 2D: its dimensions are {list(dims)}", "a 3D image")
    return dims[0], dims[1], dims[2]


def _scan(path: Path, head: Any, stored: NDArray[Any]) -> ImageFile:
    affine, notes = _affine(path, head)
    if stored.dtype.kind not in "iuf":
        what = "complex numbers" if stored.dtype.kind == "c" else "colours, not intensities"
        raise UserError(str(path), f"holds {what}", "real intensities")
    slope, inter, intent = 1.0, 0.0, 0
    if isinstance(head, nib.Nifti1Header):
        stated = head.get_slope_inter()
        if stated[0] is not None:  # None: a slope of 0, NaN or infinity, which means that nothing is scaled
            slope, inter = stated
        intent = int(head["intent_code"])
    voxels = stored.astype(np.float32) if (slope, inter) == (1.0, 0.0) else (stored.astype(np.float64) * slope + inter).astype(np.float32)
    volume = Volume(voxels, affine)
    quantum = (slope, inter) if stored.dtype.kind in "iu" else None
    x, y, z = stored.shape
    return ImageFile(volume.reoriented("RAS"), volume.orientation, (x, y, z), quantum, intent, notes)


def _affine(path: Path, head: Any) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Voxel -> mm, and what is odd about it.

    Checked: no axis of zero length, none parallel or sheared, and an orientation that the file really states.
    """
    notes: tuple[str, ...] = ()
    if isinstance(head, nib.Nifti1Header):
        affine, notes = orientation.of_nifti(path, head)
    else:
        affine = np.array(head.get_affine(), dtype=np.float64)
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
    return affine, notes
