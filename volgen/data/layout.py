"""How one scan lies on disk: a Zarr v3 group that is an OME-Zarr 0.5 image and a NIfTI-Zarr at once.

Array ``0`` holds the codes, axes z, y, x, in a single shard; ``1`` to ``3`` means over cubes of 2, 4 and 8 voxels an edge
(:mod:`volgen.data.levels`); ``nifti`` a fresh NIfTI-1 header. The figures behind the codec and the chunk are in docs/store.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from volgen.core.files import LARGEST_JSON, atomic_path, fingerprint, read_bytes, sha256, write_text
from volgen.core.protocols import Shape3
from volgen.data.levels import means_of
from volgen.data.place import states_of
from volgen.data.record import SubjectRecord
from volgen.images import nifti

CHUNK = 64
SLAB_BYTES = 2**20
"""Largest chunk of the layout for whole volumes: it and its packed form stay in one core's second-level cache while they are decoded."""
ATTRIBUTE = "volgen"
LARGEST_LIST = 2**27
"""Characters of a list of all groups beyond which readers are better off without: tens of thousands of scans."""
ROOT = "zarr.json"
"""Metadata of a group."""
FILES, SEAL = "files", "seal"
"""Attributes: SHA-256 of a group's files but its own metadata, and of that metadata."""


@dataclass(frozen=True)
class Chunking:
    """How chunks are compressed; every chunk ends in a CRC-32C whatever the codec."""

    codec: Literal["none", "blosc-lz4", "blosc-zstd", "zstd"] = "blosc-lz4"
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"] = "noshuffle"
    chunk: int = CHUNK
    """Voxels along each axis of a chunk; 0: whole axial slices, as many as make 1 MiB."""

    def inner(self, shape_ZYX: Shape3, itemsize: int) -> Shape3:
        """Chunk of an array, z, y, x."""
        if self.chunk:
            return chunk_shape(shape_ZYX, self.chunk)
        z, y, x = shape_ZYX
        return chunk_shape((z, 1, 1), max(1, SLAB_BYTES // (y * x * itemsize)))[0], y, x


Layout = Literal["slices", "volumes"]
PACKINGS: Mapping[Layout, Chunking] = {"slices": Chunking(), "volumes": Chunking(chunk=0)}


def chunk_shape(shape: Shape3, chunk: int = CHUNK) -> Shape3:
    """Inner chunk of at most ``chunk`` voxels an axis, cut evenly: 96 gives 48 + 48, not 64 + a chunk of which half is padding."""
    x, y, z = (math.ceil(n / math.ceil(n / chunk)) for n in shape)
    return x, y, z


def write_group(
    folder: Path, record: SubjectRecord, codes_ZYX: NDArray[Any], more: Mapping[str, Any], layout: Layout = "slices",
    states: Mapping[int, NDArray[np.float16]] | None = None,
) -> None:  # fmt: skip
    """Writes one scan, and what its files and its metadata have to be for :func:`changed`.

    Args:
        folder: a path that does not exist yet.
        record: stored in the group's attributes as well, so that the manifest can be rebuilt from the groups.
        codes_ZYX: the codes.
        more: further attributes under ``volgen``.
        layout: what reading is to be quick for.
        states: states through which a drawn volume came, [t, z, y, x] by the level on which they were on their way, kept beside it.
    """
    group = zarr.create_group(store=str(folder), zarr_format=3)
    write_array(group, codes_ZYX, PACKINGS[layout])
    for level, means_ZYX in enumerate(means_of(codes_ZYX, record), start=1):
        # What is behind the point of neighbours has little in common, but the bytes before it have.
        write_array(group, means_ZYX, replace(PACKINGS[layout], shuffle="shuffle"), str(level))
    for level, states_TZYX in (states or {}).items():
        kept = group.create_array(
            states_of(level), shape=states_TZYX.shape, chunks=(1, *states_TZYX.shape[1:]), dtype="float16", fill_value=0,
            serializer=BytesCodec(endian="little"), compressors=[*_compressor(PACKINGS["volumes"], 2), Crc32cCodec()], filters=None,
            dimension_names=("t", "z", "y", "x"), config={"write_empty_chunks": True},
        )  # fmt: skip
        kept[...] = states_TZYX
    head = nifti.header(record.shape, record.affine, codes_ZYX.dtype, record.slope, record.inter)
    stored = group.create_array("nifti", shape=(len(head),), chunks=(len(head),), dtype="uint8", compressors=None, filters=None)
    stored[:] = np.frombuffer(head, dtype=np.uint8)
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.glob("*/**/*")) if path.is_file()}
    attributes = {"ome": _ome(record), ATTRIBUTE: {"record": record.to_dict(), **more, FILES: files}}
    attributes[ATTRIBUTE][SEAL] = _seal(attributes)
    group.update_attributes(attributes)


def write_root(store: Path, settings: Mapping[str, Any]) -> None:
    """Makes the root of a store, which says how it was made, if there is none."""
    if not (store / ROOT).is_file():
        files: dict[str, Any] = {}
        zarr.create_group(store=files, zarr_format=3, attributes={ATTRIBUTE: {"settings": dict(settings)}})
        with atomic_path(store / ROOT) as temporary:
            temporary.write_bytes(files[ROOT].to_bytes())


def group_record(folder: Path) -> SubjectRecord | None:
    """The record of a group that :func:`write_group` wrote and nobody has changed; None if there is no such."""
    try:
        attributes = json.loads(read_bytes(folder / ROOT, limit=LARGEST_JSON))["attributes"]
        return None if changed(folder, attributes) else SubjectRecord.from_dict(attributes[ATTRIBUTE]["record"])
    except (AttributeError, OSError, ValueError, KeyError, TypeError):
        return None


def changed(folder: Path, attributes: Mapping[str, Any]) -> str:
    """How a group is not what :func:`write_group` wrote, in words; empty if it is. Groups of 0.1.0 have no seal to compare.

    Args:
        folder: where the group is.
        attributes: the group's attributes as they are now.
    """
    own = attributes[ATTRIBUTE]
    if own[SEAL] != _seal(attributes):
        return "its metadata (affine, patient, window or others) is not what was written"
    for name, digest in own[FILES].items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            return f"{name} {'is damaged' if path.is_file() else 'is missing'}"
    return ""


def _seal(attributes: Mapping[str, Any]) -> str:
    """The checksum of all attributes but itself. It is no signature: it tells an accident or a careless edit, not a forgery."""
    return fingerprint({**attributes, ATTRIBUTE: {key: value for key, value in attributes[ATTRIBUTE].items() if key != SEAL}})


def consolidate(store: Path, names: Iterable[str]) -> None:
    """Lists the groups of a store, with their metadata, in its root's ``zarr.json`` (``consolidated_metadata``, as zarr-python writes it).

    So readers need not list the folder: they would take ``manifest.json`` for a broken part of the hierarchy (zarr-python warns), and over
    HTTP there is nothing to list.
    """
    metadata: dict[str, Any] = {}
    for name in names:
        arrays = sorted(path.parent.name for path in (store / name).glob("*/zarr.json"))
        for node in (name, *(f"{name}/{array}" for array in arrays)):
            metadata[node] = json.loads((store / node / "zarr.json").read_text(encoding="utf-8"))
        metadata[name]["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {}}
    root = json.loads((store / "zarr.json").read_text(encoding="utf-8"))
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    if len(text := json.dumps(root, allow_nan=False)) < LARGEST_LIST:
        write_text(store / "zarr.json", text)


def write_array(group: zarr.Group, codes_ZYX: NDArray[Any], packing: Chunking, name: str = "0") -> None:
    """An array of a scan: one shard over the whole volume, every inner chunk stored, so that absent data is damage and never zeros."""
    z, y, x = codes_ZYX.shape
    inner = packing.inner((z, y, x), codes_ZYX.dtype.itemsize)
    shard = tuple(math.ceil(n / c) * c for n, c in zip(codes_ZYX.shape, inner, strict=True))
    codecs: list[Any] = [BytesCodec(endian="little"), *_compressor(packing, codes_ZYX.dtype.itemsize), Crc32cCodec()]
    array = group.create_array(
        name,
        shape=codes_ZYX.shape,
        dtype=codes_ZYX.dtype,
        chunks=shard,
        serializer=ShardingCodec(chunk_shape=inner, codecs=codecs),
        compressors=None,
        filters=None,
        fill_value=0,
        dimension_names=("z", "y", "x"),
        config={"write_empty_chunks": True},
    )
    array[...] = codes_ZYX


def _compressor(packing: Chunking, itemsize: int) -> list[Any]:
    if packing.codec == "none":
        return []
    if packing.codec == "zstd":
        return [ZstdCodec(level=3)]
    name = packing.codec.removeprefix("blosc-")
    return [BloscCodec(cname=name, clevel=5, shuffle=packing.shuffle, typesize=itemsize)]  # type: ignore[arg-type]


def _ome(record: SubjectRecord) -> dict[str, Any]:
    """OME-NGFF 0.5 multiscales. NGFF 0.5 has no rotation: an oblique image is placed along its own axes."""
    sizes = np.asarray(record.voxel_size)
    along = (record.affine[:3, :3] / sizes).T @ record.affine[:3, 3]
    datasets = []
    for level in range(record.levels + 1):
        first = along + sizes * (2**level - 1) / 2  # the middle of the first cube
        transformations = [
            {"type": "scale", "scale": [float(s) for s in sizes[::-1] * 2**level]},
            {"type": "translation", "translation": [float(t) for t in first[::-1]]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    image = {"name": record.id, "axes": axes, "datasets": datasets, **({"type": "mean"} if record.levels else {})}
    return {"version": "0.5", "multiscales": [image]}
