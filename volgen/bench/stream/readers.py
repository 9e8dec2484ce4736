"""Ways to read voxels, all of the same scans: what ``volgen bench stream`` compares.

Legend: Z Y X voxels in stored order. A window is one slice of indices for each of these axes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype

from volgen.data.layout import PACKINGS, write_group
from volgen.data.record import SubjectRecord
from volgen.data.store import Store

Codes = NDArray[Any]
Window = tuple[slice, slice, slice]
CHUNK = 64
RAW, NIFTI_GZ, SLICES, VOLUMES, HDF5 = "raw memory map", "nibabel .nii.gz", "volgen, slices", "volgen, volumes", "h5py"


@dataclass(frozen=True)
class Reader:
    """One way to read scan number i.

    Attributes:
        name: what its rows are called.
        new: the whole scan, in memory of its own.
        part: a window of it, in memory of its own; where the library can without reading the whole.
        into: the whole scan, into an array that was used before; where the library can.
    """

    name: str
    new: Callable[[int], Any]
    part: Callable[[int, Window], Any] | None = None
    into: Callable[[int, Codes], Any] | None = None


def readers(folder: Path, records: Sequence[SubjectRecord], scans_ZYX: Sequence[Codes]) -> Iterator[Reader]:
    """Writes the scans in every form and gives the way to read each; libraries that are not installed are left out."""
    for number, scan_ZYX in enumerate(scans_ZYX):
        np.save(folder / f"{number}.npy", scan_ZYX)
    maps = [np.load(folder / f"{number}.npy", mmap_mode="r") for number in range(len(scans_ZYX))]
    yield Reader(RAW, lambda i: np.array(maps[i]), lambda i, w: np.array(maps[i][w]), lambda i, out: np.copyto(out, maps[i]))
    yield from _volgen(folder, records, scans_ZYX)
    yield from _zarr(folder, scans_ZYX)
    if importlib.util.find_spec("h5py"):
        yield from _hdf5(folder, scans_ZYX)
    for suffix in (".nii", ".nii.gz"):
        yield _nifti(folder, suffix, records, scans_ZYX)
    yield Reader(f"{NIFTI_GZ}, get_fdata", lambda i: nib.load(folder / f"{i}.nii.gz").get_fdata().T)  # type: ignore[attr-defined]


def _volgen(folder: Path, records: Sequence[SubjectRecord], scans_ZYX: Sequence[Codes]) -> Iterator[Reader]:
    for layout in PACKINGS:
        for record, scan_ZYX in zip(records, scans_ZYX, strict=True):
            write_group(folder / layout / record.id, record, scan_ZYX, {}, layout)
        yield stored_reader(layout, folder / layout, records)


def stored_reader(name: str, at: Path | str, records: Sequence[SubjectRecord]) -> Reader:
    """Volgen's own way, from a folder or from an address."""
    store = Store(at, records)
    return Reader(
        f"volgen, {name}",
        lambda i: store.read_codes(records[i]).T,
        lambda i, w: store.read_window(records[i], w[::-1]).T,
        lambda i, out: store.read_codes(records[i], out.T),
    )


def _zarr(folder: Path, scans_ZYX: Sequence[Codes]) -> Iterator[Reader]:
    """Volgen's own files through zarr-python, then plain chunks: a file each, zarr-python's default codec."""
    stored = [folder / "slices" / path.name / "0" for path in sorted((folder / "slices").iterdir())]
    yield _zarr_python("zarr-python, same file", stored)
    if importlib.util.find_spec("zarrs"):
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            yield _zarr_python("zarr-python with zarrs, same file", stored)
    plain = [folder / f"{number}.zarr" for number in range(len(scans_ZYX))]
    for path, scan_ZYX in zip(plain, scans_ZYX, strict=True):
        zarr.create_array(store=str(path), data=scan_ZYX, chunks=tuple(min(CHUNK, size) for size in scan_ZYX.shape))
    yield _zarr_python("zarr-python, plain chunks", plain)
    spec = [{"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}} for path in plain]
    arrays = [ts.open(one, read=True, open=True).result() for one in spec]
    yield Reader(
        "tensorstore, plain chunks",
        lambda i: arrays[i].read().result(),
        lambda i, w: arrays[i][w].read().result(),
        lambda i, out: ts.array(out).write(arrays[i]).result(),
    )


def _zarr_python(name: str, paths: Sequence[Path]) -> Reader:
    arrays: list[Any] = [zarr.open_array(str(path), mode="r") for path in paths]
    wrap = default_buffer_prototype().nd_buffer.from_numpy_array
    return Reader(name, lambda i: arrays[i][...], lambda i, w: arrays[i][w], lambda i, out: arrays[i].get_basic_selection(out=wrap(out)))


def _hdf5(folder: Path, scans_ZYX: Sequence[Codes]) -> Iterator[Reader]:
    """Without HDF5's cache of decoded chunks: scans in random order never find theirs in it, the same one again and again always does."""
    import h5py

    chunks = tuple(min(CHUNK, size) for size in scans_ZYX[0].shape)
    slabs = (min(16, chunks[0]), *scans_ZYX[0].shape[1:])
    kinds: dict[str, dict[str, Any]] = {"contiguous": {}}
    for shape, some in (("64^3", chunks), ("slabs", slabs)):
        for packing in (None, "lzf", "gzip"):
            kinds[f"{packing or 'not packed'}, {shape}"] = {"chunks": some, "compression": packing}
    for name, options in kinds.items():
        path = folder / f"{name}.h5"
        with h5py.File(path, "w") as file:
            for number, scan_ZYX in enumerate(scans_ZYX):
                file.create_dataset(str(number), data=scan_ZYX, **options)
        file = h5py.File(path, rdcc_nbytes=0)
        sets = [file[str(number)] for number in range(len(scans_ZYX))]
        yield Reader(
            f"{HDF5}, {name}",
            lambda i, sets=sets: sets[i][...],  # type: ignore[misc]
            lambda i, w, sets=sets: sets[i][w],  # type: ignore[misc]
            lambda i, out, sets=sets: sets[i].read_direct(out),  # type: ignore[misc]
        )


def _nifti(folder: Path, suffix: str, records: Sequence[SubjectRecord], scans_ZYX: Sequence[Codes]) -> Reader:
    """Nibabel as a data set would use it: the file is opened each time."""
    paths = [folder / f"{number}{suffix}" for number in range(len(scans_ZYX))]
    for path, record, scan_ZYX in zip(paths, records, scans_ZYX, strict=True):
        nib.save(nib.Nifti1Image(scan_ZYX.T, record.affine), path)
    # An unpacked file is mapped, not read, until it is copied.
    copy: Callable[..., Codes] = np.array if suffix == ".nii" else np.asarray

    def read(i: int, window: Any = ...) -> Codes:
        proxy: Any = nib.load(paths[i]).dataobj  # type: ignore[attr-defined]
        return copy(np.asarray(proxy[window]), order="F").T

    return Reader(f"nibabel {suffix}", read, lambda i, w: read(i, w[::-1]))
