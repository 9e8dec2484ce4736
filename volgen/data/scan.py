"""A scan of a store, or a volume in memory, of which a training example may take a part (:class:`volgen.core.protocols.Scan`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool3d

from volgen.core.protocols import Shape3
from volgen.data.cache import CodeCache
from volgen.data.convert import codes_to_model
from volgen.data.piece import Piece, foreground
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.images import intensity
from volgen.images.box import BoxConfig

Coarse = dict[tuple[str, int], Tensor]
"""Coarse volumes by scan and edge: small, and needed again in every epoch."""


class StoredScan:
    """A scan that is read when its voxels are asked for.

    Args:
        store: where it is.
        record: which it is.
        cache: decoded scans.
        coarse: coarse volumes made so far; shared, and added to.
        cached: whether the cache has room for all that are wanted: then whole scans are kept, otherwise only the chunks of slices are read.
        place: what of it is looked at, as if there were nothing else.
    """

    def __init__(
        self, store: Store, record: SubjectRecord, cache: CodeCache, coarse: Coarse, cached: bool, place: BoxConfig
    ) -> None:  # fmt: skip
        self._store, self._record, self._cache, self._coarse, self._cached = store, record, cache, coarse, cached
        self._place = place

    @property
    def shape(self) -> Shape3:
        """Voxels along R, A, S."""
        return self._place.size

    @property
    def about(self) -> Mapping[str, Any]:
        """What the store's manifest says of it."""
        return self._record.to_dict()

    def whole(self) -> Tensor:
        """All voxels, float32 [X, Y, Z] in [-1, 1]."""
        return foreground(self._codes(), self._record).whole()

    def head(self) -> Piece:
        """All that the cache keeps of the scan but the background around it, in [-1, 1]: for whoever moves it before looking."""
        return foreground(self._cache.codes(self._record), self._record)

    def slices(self, axis: int, start: int, stop: int) -> Tensor:
        """Slices ``start`` ... ``stop - 1`` along an axis, float32 in [-1, 1]."""
        x, y, z = (start * (a == axis) for a in range(3))
        i, j, k = (stop - start if a == axis else size for a, size in enumerate(self.shape))
        return self.part((x, y, z), (i, j, k))

    def part(self, start: Shape3, size: Shape3) -> Tensor:
        """A box of ``size`` voxels that begins at ``start``, float32 in [-1, 1]; only the chunks of its slices are read."""
        if self._cached:
            return torch.from_numpy(codes_to_model(self._codes()[_box(start, size)], self._record))
        x, y, z = (first + here for first, here in zip(self._place.start, start, strict=True))
        return intensity.to_model(torch.from_numpy(self._store.read_block(self._record, (x, y, z), size)))

    def coarse(self, edge: int) -> Tensor:
        """Means of cubes of ``edge``^3 voxels; the scan is read once."""
        key = (self._record.id, edge)
        if key not in self._coarse:
            # Not through the cache where slices do not come from it: the scan would push out nothing that is needed, and stay for nobody.
            whole = self.whole() if self._cached else self.slices(0, 0, self._place.size[0])
            self._coarse[key] = _means(whole, edge)
        return self._coarse[key]

    def _codes(self) -> NDArray[Any]:
        codes = self._cache.codes(self._record)
        return codes if codes.shape == self._place.size else self._place.crop(codes)


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
    return avg_pool3d(volume_XYZ[None, None], edge)[0, 0]
