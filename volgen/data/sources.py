"""Volumes that a command is about, whatever they are kept in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.manifest import NAME as MANIFEST
from volgen.data.ingest.discover import discover
from volgen.data.store import Store
from volgen.images import nifti
from volgen.images.contrasts import SUFFIXES, UNSAID
from volgen.images.volume import Volume

VOXEL_TOLERANCE = 0.01


@dataclass(frozen=True)
class Source:
    """One volume to judge: its name, where it is from, and how to read it."""

    name: str
    file: str
    fingerprint: Callable[[], str]
    read: Callable[[], Volume]


def sources_of(samples: Path) -> list[Source]:
    """Volumes of an image, a folder of images or a store.

    Raises:
        UserError: there are none.
    """
    if samples.is_dir() and (samples / "zarr.json").exists():
        store = Store.open(samples)
        sources = [Source(r.id, r.id, partial(str, r.checksum), partial(store.read, r)) for r in store.records]
    else:
        found = discover(samples, _contrasts_in(samples))
        stems = [nifti.stem(item.path) for item in found]
        sources = [
            Source(
                name if stems.count(name) == 1 else item.id,
                item.relative,
                partial(sha256, item.path, follow=True),
                partial(nifti.read, item.path),
            )
            for name, item in zip(stems, found, strict=True)
        ]
    if not sources:
        raise UserError(str(samples), "holds no volume", "at least one")
    return sources


def _contrasts_in(samples: Path) -> str:
    """Which images of a BIDS tree are taken: T1w; in a folder that volgen wrote, and where there is none, every contrast that there is."""
    images = [path for pattern in ("sub-*/anat/*", "sub-*/ses-*/anat/*") for path in samples.glob(pattern) if nifti.is_image(path)]
    there = {nifti.stem(path).rpartition("_")[2] for path in images} & SUFFIXES.keys()
    if not there or (UNSAID in there and not (samples / MANIFEST).is_file()):
        return UNSAID
    return ",".join(sorted(there))


def same_voxels(name: str, size: Sequence[float], expected: Sequence[float]) -> None:
    """Refuses another voxel size than the reference's.

    Raises:
        UserError: the edges differ by more than 1 %.
    """
    if not np.allclose(size, expected, rtol=VOXEL_TOLERANCE):
        found, wanted = (" x ".join(f"{edge:.3g}" for edge in edges) + " mm" for edges in (size, expected))
        do = "resample it (`volgen ingest --voxel-size`), or take a reference with its voxel size"
        raise UserError(name, f"its voxels are {found}", f"{wanted} as in the reference (change between slices grows with them)", do)
