"""A store as it is in larger voxels: what volumes are compared with that were drawn, or averaged, on a coarser grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.data.record import SubjectRecord
from volgen.data.sources import VOXEL_TOLERANCE
from volgen.data.store import Store
from volgen.images.blocks import block_affine, block_means
from volgen.images.volume import Volume

MOST = 8
"""Voxels of a store along an edge of the largest cubes that its scans are averaged over."""


def in_voxels_of(store: Store, samples: Iterable[Callable[[], Volume]]) -> Store:
    """A store in the voxels of volumes that are compared with it, if these are 2, 4 or 8 times as large as its own; else as it is.

    Args:
        store: real scans.
        samples: reads the volumes; the first one that can be read counts. What is wrong with others is said where they are judged.
    """
    for read in samples:
        with suppress(UserError):
            return _in_voxels(store, read().voxel_size)
    return store


def _in_voxels(store: Store, voxel_size: Sequence[float]) -> Store:
    own = store.records[0].voxel_size
    edge = round(voxel_size[0] / own[0])
    larger = edge in (2, 4, MOST) and np.allclose(voxel_size, [edge * size for size in own], rtol=VOXEL_TOLERANCE)
    fills = all(size % edge == 0 for record in store.records for size in record.shape) if larger else False
    return CoarserStore(store, edge) if fills else store


class CoarserStore(Store):
    """Means over cubes of a store's voxels. Volumes and windows are read; codes, of which there are none, are not.

    Args:
        store: that of the scans.
        edge: voxels along an edge of a cube, by which all shapes divide.
    """

    def __init__(self, store: Store, edge: int) -> None:
        self._store, self._edges = store, (edge,) * 3
        self._records = {record.id: record for record in store.records}
        records = [self._seen(record) for record in store.records]
        super().__init__(store.path, records, store.settings, store.people, fitted=store.fitted, covariates=store.covariates)

    def read(self, record: SubjectRecord) -> Volume:
        """The means in scanner units, float32."""
        return Volume(block_means(self._store.read(self._records[record.id]).voxels, self._edges), record.affine)

    def read_unit(self, record: SubjectRecord) -> NDArray[np.float32]:
        """The means in [0, 1], float32 [X, Y, Z], through the scan's robust window."""
        return block_means(self._store.read_unit(self._records[record.id]), self._edges)

    def verify(self, record: SubjectRecord) -> None:
        """Compares the codes that the means are made of with the manifest's checksum."""
        self._store.verify(self._records[record.id])

    def _array(self, record: SubjectRecord, copier: int | None = None, level: int = 0) -> Any:
        raise ValueError(f"{record.id} is seen in larger voxels than it is stored in, which have no codes")

    def _seen(self, record: SubjectRecord) -> SubjectRecord:
        x, y, z = (size // edge for size, edge in zip(record.shape, self._edges, strict=True))
        finest = max(0, record.finest - round(math.log2(self._edges[0])))
        affine = block_affine(record.affine, self._edges)
        return replace(record, shape=(x, y, z), affine=affine, foreground=None, finest=finest, levels=0)
