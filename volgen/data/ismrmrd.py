"""ISMRMRD (Inati et al. 2017): what a header says of a scan, and its acquisitions as k-space.

Legend: c coils, N the readout, P and Q the phase encodes (kspace_encode_step_1 and 2). The format is that of its documentation: a header in
XML, and a table of acquisitions, each with flags, counters, directions in LPS and its samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.limits import grid_fits

NOISE, REVERSED = 19, 22
OTHER = (20, 23, 24, 26, 27, 28, 29)
"""Flags of what is no part of the image: calibration alone, navigation, phase correction, feedback, dummies, surface coil correction."""
COUNTERS = ("contrast", "phase", "repetition", "set", "slice")
"""Counters of which the first is taken."""
LARGEST_XML = 2**22
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class RawHeader:
    """What the header of a file says.

    Attributes:
        matrix: samples along N, P, Q of the encoded space.
        field_mm: its field of view.
        readout: voxels of the image along the readout: fewer than samples where the readout is oversampled.
        centres: which number of the counters of P and Q the centre of k-space has.
    """

    matrix: tuple[int, int, int]
    field_mm: tuple[float, float, float]
    readout: int
    centres: tuple[int, int]


@dataclass(frozen=True)
class Lines:
    """Acquisitions, put where they are in k-space.

    Attributes:
        kspace_cNPQ: complex64, repeats averaged, the centre at edge // 2; zeros where nothing was measured.
        mask_PQ: which phase encodes were.
        noise_cM: what coils receive when nothing is sent, if that was measured.
        noise_factor: standard deviation of the noise of ``kspace_cNPQ`` where that of ``noise_cM`` is 1: samples of another length have
            another, and averages of repeats less.
        affine: 4 x 4, voxels of the image [N, P, Q] -> mm of RAS+.
    """

    kspace_cNPQ: NDArray[np.complex64]
    mask_PQ: NDArray[np.bool_]
    noise_cM: NDArray[np.complex64] | None
    noise_factor: float
    affine: NDArray[np.float64]


def header_of(xml: NDArray[Any], where: str, *, slices: bool = False) -> RawHeader:
    """Reads the header.

    Args:
        xml: the text, alone in an array.
        where: names the file, for messages.
        slices: whether the encoded space is that of one slice, with its thickness along Q, rather than of a volume.

    Raises:
        UserError: it is no such header, or of no Cartesian scan.
    """
    what = f"an ISMRMRD header of {'Cartesian slices' if slices else 'a Cartesian 3D scan'}"
    try:
        first = xml.reshape(-1)[0]
        text = first if isinstance(first, bytes) else str(first).encode()
        if len(text) > LARGEST_XML or b"<!" in text.replace(b"<!--", b""):
            raise ValueError("too long, or with definitions of its own")
        root = ElementTree.fromstring(text)
        encoding = _only(root, "encoding")
        encoded, image = _only(encoding, "encodedSpace"), _only(encoding, "reconSpace")
        matrix = tuple(int(_text(encoded, "matrixSize", axis)) for axis in "xyz")
        field = tuple(float(_text(encoded, "fieldOfView_mm", axis)) for axis in "xyz")
        wide = float(_text(image, "fieldOfView_mm", "x"))
        centres = [
            int(_text(encoding, "encodingLimits", f"kspace_encoding_step_{step}", "center", default=str(matrix[step] // 2)))
            for step in (1, 2)
        ]
        trajectory = _text(encoding, "trajectory")
    except (ElementTree.ParseError, ValueError, IndexError, TypeError, OverflowError, UnicodeError) as error:
        raise UserError(where, f"has a header that cannot be read ({' '.join(str(error).split())[:120]})", what) from None
    if trajectory.lower() != "cartesian":
        raise UserError(
            where, f"was acquired on a {trajectory} trajectory", what, "reconstruct it with another program, and give the image"
        )
    if min(matrix) < 1 or not all(0.0 < edge < 1e4 for edge in (*field, wide)) or not grid_fits(matrix):
        raise UserError(where, f"has {matrix} samples in {field} mm", what)
    if slices and matrix[2] != 1:
        raise UserError(where, f"says that a slice has {matrix[2]} phase encodes across it", what)
    if matrix[2] == 1 and not slices:
        found, do = "is two-dimensional: it has one phase encode", "reconstruct its slices, and give the image with --operator slices"
        raise UserError(where, found, "a 3D scan, with two phase encodes", do)
    n, p, q = matrix
    x, y, z = field
    return RawHeader((n, p, q), (x, y, z), min(n, max(1, round(n * wide / x))), (centres[0], centres[1]))


def read_acquisitions(table: NDArray[Any], header: RawHeader, where: str) -> Lines:
    """Sorts acquisitions into k-space.

    Raises:
        UserError: the table has another form, an acquisition does not fit the header, or there is none of an image.
    """
    what = "acquisitions that fit the header"
    try:
        heads, values = table["head"], table["data"]
        flags, index = heads["flags"], heads["idx"]
        other = np.zeros(len(heads), dtype=bool)
        for flag in OTHER:
            other |= _has(flags, flag)
        noisy = _has(flags, NOISE)
        for name in COUNTERS:
            other |= index[name] != 0
        imaging = np.flatnonzero(~other & ~noisy)
        if not len(imaging):
            raise UserError(where, "holds no acquisition of an image", what)
        slices = np.unique(index["slice"][~noisy])
        if len(slices) > 1:
            found, do = f"has {len(slices)} slices or slabs", "reconstruct them, and give the image with --operator slices"
            raise UserError(where, found, "one 3D slab", do)
        coils = int(heads["active_channels"][imaging[0]])
        if not 1 <= coils <= 1024:
            raise UserError(where, f"has {coils} coils", "1 to 1024")
        n, p, q = header.matrix
        kspace = np.zeros((coils, n, p, q), dtype=np.complex64)
        counts = np.zeros((p, q), dtype=np.int64)
        for number in imaging:
            _add(kspace, counts, heads[number], values[number], header, where)
        noise = [_samples(heads[number], values[number], coils, where) for number in np.flatnonzero(noisy)]
        head = heads[imaging[0]]
        affine = _affine(head, header)
        dwell = [float(heads["sample_time_us"][number]) for number in (imaging[0], *np.flatnonzero(noisy)[:1])]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(where, f"has acquisitions of another form ({' '.join(str(error).split())[:120]})", what) from None
    kspace /= np.maximum(counts, 1)
    ratio = dwell[1] / dwell[0] if len(dwell) == 2 and min(dwell) > 0.0 else 1.0
    factor = math.sqrt(ratio / counts[counts > 0].min())
    return Lines(kspace, counts > 0, np.concatenate(noise, axis=1) if noise else None, factor, affine)


def _add(kspace: Any, counts: Any, head: Any, values: Any, header: RawHeader, where: str) -> None:
    n, p, q = header.matrix
    line = _samples(head, values, len(kspace), where)
    first, last = int(head["discard_pre"]), line.shape[1] - int(head["discard_post"])
    centre = int(head["center_sample"])
    if _has(head["flags"], REVERSED):
        line, first, last, centre = line[:, ::-1], line.shape[1] - last, line.shape[1] - first, line.shape[1] - 1 - centre
    place = (
        int(head["idx"]["kspace_encode_step_1"]) - header.centres[0] + p // 2,
        int(head["idx"]["kspace_encode_step_2"]) - header.centres[1] + q // 2,
    )
    begin = first - centre + n // 2
    if not (0 <= place[0] < p and 0 <= place[1] < q and begin >= 0 and begin + last - first <= n and first < last):
        found = f"has an acquisition at {place} of {line.shape[1]} samples, which lies outside of {list(header.matrix)}"
        raise UserError(where, found, "acquisitions that fit the header")
    kspace[:, begin : begin + last - first, place[0], place[1]] += line[:, first:last]
    counts[place] += 1


def _samples(head: Any, values: Any, coils: int, where: str) -> NDArray[np.complex64]:
    """Samples of an acquisition, [coils, samples]."""
    channels, samples = int(head["active_channels"]), int(head["number_of_samples"])
    if channels != coils or len(values) != 2 * channels * samples:
        found = f"has an acquisition of {len(values)} numbers for {channels} coils and {samples} samples"
        raise UserError(where, found, f"two numbers for each sample of {coils} coils")
    flat = np.ascontiguousarray(values, dtype=np.float32).view(np.complex64)
    return flat.reshape(channels, samples)


def _affine(head: Any, header: RawHeader) -> NDArray[np.float64]:
    """Where voxels lie: directions and the middle of the field are in LPS, and the middle is voxel edge // 2, as that of k-space is."""
    affine = np.eye(4)
    sizes = np.asarray(header.field_mm) / np.asarray(header.matrix)
    directions = np.stack([np.asarray(head[f"{name}_dir"], dtype=np.float64) for name in ("read", "phase", "slice")], axis=1)
    if not np.isfinite(directions).all() or np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        raise ValueError("directions that are not at right angles")
    affine[:3, :3] = LPS_TO_RAS @ directions * sizes
    affine[:3, 3] = LPS_TO_RAS @ np.asarray(head["position"], dtype=np.float64) - affine[:3, :3] @ (np.asarray(header.matrix) // 2)
    return affine


def _has(flags: Any, flag: int) -> Any:
    return (flags >> np.uint64(flag - 1)) & np.uint64(1) == 1


def _only(parent: Any, name: str) -> Any:
    found = next((child for child in parent if child.tag.rpartition("}")[2] == name), None)
    if found is None:
        raise ValueError(f"there is no {name}")
    return found


def _text(parent: Any, *names: str, default: str | None = None) -> str:
    try:
        for name in names:
            parent = _only(parent, name)
    except ValueError:
        if default is None:
            raise
        return default
    return (parent.text or "").strip()
