"""A scan of a store, or a volume in memory, of which a training example may take a part (:class:`volgen.core.protocols.Scan`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool3d

from volgen.core.protocols import Scan, Shape3
from volgen.data.cache import Cache
from volgen.data.convert import codes_to_model, means_to_model
from volgen.data.piece import Piece, foreground
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.images import intensity
from volgen.images.box import BoxConfig


class StoredScan:
    """A scan that is read when its voxels are asked for.

    Args:
        store: where it is.
        record: which it is.
        cache: what was decoded.
        cached: whether the cache has room for all that are wanted: then whole scans are kept, otherwise only the chunks of slices are read.
        place: what of it is looked at, as if there were nothing else.
        decoded: what of it is decoded and kept, if it is; holds ``place``.
    """

    def __init__(
        self, store: Store, record: SubjectRecord, cache: Cache, cached: bool, place: BoxConfig, decoded: BoxConfig
    ) -> None:  # fmt: skip
        self._store, self._cache, self._cached, self._decoded = store, cache, cached, decoded
        self.record, self.place = record, place

    def at(self, place: BoxConfig) -> StoredScan:
        """The same scan, of which something else is looked at."""
        return StoredScan(self._store, self.record, self._cache, self._cached, place, self._decoded)

    @property
    def shape(self) -> Shape3:
        """Voxels along R, A, S."""
        return self.place.size

    @property
    def about(self) -> Mapping[str, Any]:
        """What the store's manifest says of it, and of its person."""
        return self.record.about

    def whole(self) -> Tensor:
        """All voxels, float32 [X, Y, Z] in [-1, 1]."""
        return foreground(self._codes(), self.record).whole()

    def head(self) -> Piece:
        """All that is decoded of the scan but the background around it, in [-1, 1]: for whoever moves it before looking."""
        return foreground(self._kept(), self.record)

    def states(self, start: Shape3, size: Shape3, *, climbed: bool, level: int = 0) -> Tensor:
        """The states through which a drawn volume came, float32 [T, X, Y, Z] (:class:`volgen.core.protocols.Trajectory`).

        Args:
            start: first voxel of a box of what is computed on, of means over cubes of 2^level voxels.
            size: voxels of it.
            climbed: whether states were kept of each level.
            level: which of them; or of which these are made of whole ones.

        Raises:
            UserError: the store keeps none, of other voxels, or they are damaged.
        """
        kept = level if climbed else 0
        x, y, z = (edge >> kept for edge in self.place.size)
        states_TXYZ = self._cache.get(
            (self.record.id, "states", kept, self.place.start), lambda: self._store.read_states(self.record, (x, y, z), kept)
        )
        edge = 2 ** (level - kept)
        box = _box(*((a * edge, b * edge, c * edge) for a, b, c in (start, size)))
        part_TXYZ = torch.from_numpy(states_TXYZ[(slice(None), *box)].astype(np.float32))
        return avg_pool3d(part_TXYZ[None], edge)[0] if edge > 1 else part_TXYZ

    def slices(self, axis: int, start: int, stop: int) -> Tensor:
        """Slices ``start`` ... ``stop - 1`` along an axis, float32 in [-1, 1]."""
        x, y, z = (start * (a == axis) for a in range(3))
        i, j, k = (stop - start if a == axis else size for a, size in enumerate(self.shape))
        return self.part((x, y, z), (i, j, k))

    def part(self, start: Shape3, size: Shape3) -> Tensor:
        """A box of ``size`` voxels that begins at ``start``, float32 in [-1, 1]; only the chunks of its slices are read."""
        if self._cached:
            return torch.from_numpy(codes_to_model(self._codes()[_box(start, size)], self.record))
        return self._read(start, size)

    def coarse(self, edge: int) -> Tensor:
        """Means of cubes of ``edge``^3 voxels: from the coarsest level that the store has of them, of which as little as can be is read."""
        level = min(self.record.levels, edge.bit_length() - 1)
        while level and (edge % 2**level or not self.place.whole_cubes(2**level)):
            level -= 1
        if not level:
            return torch.from_numpy(self._cache.get((self.record.id, edge, self.place.start), lambda: self._made(edge).numpy()).copy())
        kept = (self._decoded if self._decoded.whole_cubes(2**level) else self.place).coarse(2**level)
        codes = self._cache.get((self.record.id, -level, kept.start), lambda: self._store.read_means(self.record, level, kept))
        mine = self.place.coarse(2**level).seen_from(kept)
        return _means(torch.from_numpy(means_to_model(mine.crop(codes), self.record)), edge >> level)

    def _made(self, edge: int) -> Tensor:
        # Not of voxels that are kept: whoever works on means needs no others, and they would push out what is needed again.
        return _means(self._read((0, 0, 0), self.place.size), edge)

    def _read(self, start: Shape3, size: Shape3) -> Tensor:
        x, y, z = (first + here for first, here in zip(self.place.start, start, strict=True))
        return intensity.to_model(torch.from_numpy(self._store.read_block(self.record, (x, y, z), size)))

    def _codes(self) -> NDArray[Any]:
        return self.place.seen_from(self._decoded).crop(self._kept())

    def _kept(self) -> NDArray[Any]:
        def read() -> NDArray[Any]:
            if self._decoded.size == self.record.shape:
                return self._store.read_codes(self.record)
            return self._store.read_window(self.record, self._decoded.place[1:])

        return self._cache.get(self.record.id, read)


class MirroredScan:
    """A scan whose left and right have changed places; of means the mirrored are the means of the mirrored, so as little is read."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self.shape, self.about = scan.shape, scan.about

    def whole(self) -> Tensor:
        """All voxels, float32 [X, Y, Z] in [-1, 1]."""
        return self._scan.whole().flip(0)

    def slices(self, axis: int, start: int, stop: int) -> Tensor:
        """Slices ``start`` ... ``stop - 1`` along an axis."""
        first, last = (self.shape[0] - stop, self.shape[0] - start) if axis == 0 else (start, stop)
        return self._scan.slices(axis, first, last).flip(0)

    def part(self, start: Shape3, size: Shape3) -> Tensor:
        """A box of ``size`` voxels that begins at ``start``."""
        x, y, z = start
        return self._scan.part((self.shape[0] - x - size[0], y, z), size).flip(0)

    def coarse(self, edge: int) -> Tensor:
        """Means of cubes of ``edge``^3 voxels."""
        return self._scan.coarse(edge).flip(0)


class VolumeScan:
    """A volume that is made when its voxels are first asked for; what is known ``about`` the scan it was made of stays true."""

    def __init__(self, shape: Shape3, make: Callable[[], Tensor], about: Mapping[str, Any] | None = None) -> None:
        self.shape, self.about = shape, about or {}
        self._make = make
        self._made: Tensor | None = None

    def whole(self) -> Tensor:
        """All voxels, float32 [X, Y, Z] in [-1, 1]."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def slices(self, axis: int, start: int, stop: int) -> Tensor:
        """Slices ``start`` ... ``stop - 1`` along an axis."""
        return self.whole().narrow(axis, start, stop - start)

    def part(self, start: Shape3, size: Shape3) -> Tensor:
        """A box of ``size`` voxels that begins at ``start``."""
        return self.whole()[_box(start, size)]

    def coarse(self, edge: int) -> Tensor:
        """Means of cubes of ``edge``^3 voxels."""
        return _means(self.whole(), edge)


def _box(start: Shape3, size: Shape3) -> tuple[slice, slice, slice]:
    x, y, z = (slice(first, first + count) for first, count in zip(start, size, strict=True))
    return x, y, z


def _means(volume_XYZ: Tensor, edge: int) -> Tensor:
    return avg_pool3d(volume_XYZ[None, None], edge)[0, 0] if edge > 1 else volume_XYZ
