"""Batches of training volumes: sharded over ranks, and a function of (seed, step) alone, so that resuming needs no state.

Legend: B batch, C channel, X Y Z voxels in RAS+.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt, field_validator, model_validator
from torch import Tensor

from volgen.core.config import MAY_CHANGE, Config, three
from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Examples, Given
from volgen.core.limits import GRID, grid_fits
from volgen.core.protocols import Cut, Scan, Shape3
from volgen.core.rng import permutation
from volgen.data.augment import AugmentConfig
from volgen.data.cache import Cache
from volgen.data.half import HalfConfig
from volgen.data.record import Split, SubjectRecord
from volgen.data.scan import StoredScan
from volgen.data.store import Store
from volgen.images.box import BoxConfig

__all__ = ["AugmentConfig", "Batch", "Stream", "StreamConfig", "Wanted"]

FOREGROUND = "foreground"
"""A box that follows from the cohort: it becomes numbers where a recipe is loaded."""
AHEAD = 2
"""Batches that are decoded ahead of the one asked for."""


class StreamConfig(Config):
    """What is read, and how much of it at once."""

    store: Annotated[str, MAY_CHANGE]
    """Zarr store that ``volgen ingest`` made: a path (relative ones start at the working directory), or an address: ``s3://bucket/store``,
    or another that fsspec knows."""
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Voxels along the RAS+ axes, or one number for a cube: that of the store, from which it is taken where it is left out. A dry run
    that states it needs no data."""
    box: BoxConfig | None = None
    """Where in volumes all is computed: ``foreground`` for the box of all training heads with a small margin, as large as the models need,
    or a first voxel and a size. Outside, samples have background. All of them if None, as whole heads want it."""
    batch_size: PositiveInt = 4
    """Volumes in one optimiser step, over all ranks and accumulation steps together."""
    workers: Annotated[PositiveInt, MAY_CHANGE] = 2
    """Threads that decode and augment ahead of the training loop."""
    cache_gib: Annotated[NonNegativeFloat, MAY_CHANGE] = 1.0
    """Decoded volumes kept in memory by each rank."""
    augment: AugmentConfig = AugmentConfig()
    """Random transforms of training volumes."""
    interpolated: bool = False
    """Whether scans also train experts whose voxels are finer than their own by over a quarter: these learn how ingest interpolates."""
    half: HalfConfig | None = None
    """Only a random half of the training split, for audits; all of it if None."""

    @field_validator("shape", mode="before")
    @classmethod
    def _cube(cls, value: Any) -> Any:
        return three(value)

    @field_validator("shape")
    @classmethod
    def _possible(cls, value: Shape3) -> Shape3:
        if not grid_fits(value):
            raise ValueError(f"a grid has {GRID}")
        return value

    @field_validator("box", mode="before")
    @classmethod
    def _resolved(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"is '{value}': it is {FOREGROUND}, which a store has, or a start and a size, three numbers each")
        return value

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.box is not None and not BoxConfig.whole(self.shape).holds(self.box):
            found = f"starts at {list(self.box.start)} and has {list(self.box.size)} voxels"
            raise ValueError(f"box {found}, which are not all in volumes of {list(self.shape)}")
        return self

    @property
    def place(self) -> BoxConfig:
        """What of a volume is computed on: the box, or all."""
        return self.box or BoxConfig.whole(self.shape)

    @property
    def grid(self) -> Shape3:
        """Voxels along the RAS+ axes of what is computed on."""
        return self.place.size

    @property
    def decoded(self) -> BoxConfig:
        """What of a volume is read and kept: what is computed on, or all where heads are moved and may come into the box from outside."""
        return self.augment.build().reach(self.place, self.shape)

    def records(self, store: Store, split: Split, level: int | None = None) -> list[SubjectRecord]:
        """Scans of a split that a run may look at, in the order of the manifest; those that teach experts of a level, if one is given."""
        half = self.half if split == "train" else None
        found = [record for record in store.split(split) if half is None or half.holds(record.patient)]
        return found if level is None else [record for record in found if self.teaches(record, level)]

    def teaches(self, record: SubjectRecord, level: int) -> bool:
        """Whether experts of a level learn from a scan: its own voxels are not coarser than theirs."""
        return self.interpolated or record.finest <= level

    def check_shapes(self, store: Store, records: Iterable[SubjectRecord]) -> None:
        """Makes sure that scans have the shape that is stated here.

        Raises:
            UserError: names the first that has not.
        """
        odd = next((record for record in records if record.shape != self.shape), None)
        if odd is not None:
            found = f"is {list(self.shape)}, but {odd.id} of {store.path} is {list(odd.shape)}"
            raise UserError("data.shape", found, "the store's shape", "leave it out: it is taken from the store")


Wanted = tuple[SubjectRecord, int, tuple[int | str, ...]]
"""A scan, and the (seed, key) that its augmentation is a function of."""


@dataclass(frozen=True)
class Batch:
    """A rank's part of one global batch.

    Attributes:
        x_BCXYZ: float32 in [-1, 1], C = 1; in pinned memory where CUDA is available.
        positions: places in the global batch, 0 ... batch_size - 1: the keys for noise, so that it does not depend on the number of ranks.
        ids: scans, for messages about this batch.
        given: what is known beside the volumes.
    """

    x_BCXYZ: Tensor
    positions: list[int]
    ids: list[str]
    given: Given = NOTHING


def everything(scan: Scan, seed: int, *key: int | str) -> Examples:
    """The :class:`~volgen.core.protocols.Cut` that takes whole volumes."""
    return Examples(scan.whole()[None, None])


class Stream:
    """Volumes of one split, or pieces of them, for one rank.

    Position p of step s is volume ``g = s * batch_size + p`` of an endless sequence that goes through the split once per epoch, each epoch
    in an order of its own (a function of seed and epoch). Rank r owns a contiguous block of positions, so every number of ranks and
    of workers sees the same global batches.

    Args:
        store: an open store.
        split: which of its scans.
        config: batch, cache and augmentation.
        seed: seed of the order and of the augmentation.
        rank: this process's number among those that share a batch.
        world: number of those.
        cut: what of a scan an example is.
        level: that of the experts that learn from it; all scans of the split if None.

    Raises:
        UserError: the split is empty, the store has another shape, or the batch cannot be shared evenly.
    """

    def __init__(
        self, store: Store, split: Split, config: StreamConfig, seed: int, rank: int = 0, world: int = 1, cut: Cut = everything,
        level: int | None = None,
    ) -> None:  # fmt: skip
        self.records = config.records(store, split, level)
        if not self.records:
            whom = "nobody" if level is None or not config.records(store, split) else f"no scan that is fine enough for level {level}"
            raise UserError(str(store.path), f"has {whom} in its {split} split", "at least one scan", "ingest more people or other shares")
        config.check_shapes(store, self.records)
        if config.batch_size % world:
            raise UserError("data.batch_size", f"{config.batch_size} cannot be shared by {world} ranks", f"a multiple of {world}")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        self.config, self.seed = config, seed
        local = config.batch_size // world
        self._positions = list(range(rank * local, (rank + 1) * local))
        self._cut, self._augment = cut, config.augment.build()
        self._store, self._cache, self._decoded = store, Cache(int(config.cache_gib * 2**30)), config.decoded
        voxels = math.prod(self._decoded.size)
        self._cached = sum(voxels * np.dtype(record.dtype).itemsize for record in self.records) <= self._cache.limit
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="stream")
        self._ahead: dict[int, list[Future[Examples]]] = {}
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        """Scans in the split: one epoch."""
        return len(self.records)

    def batch(self, step: int) -> Batch:
        """This rank's part of the global batch of ``step``; the next ones are decoded meanwhile.

        Raises:
            UserError: a shard is damaged; names the scan.
        """
        wanted = range(step, step + 1 + AHEAD)
        for stale in [key for key in self._ahead if key not in wanted]:
            for future in self._ahead.pop(stale):
                future.cancel()
        for key in wanted:
            if key not in self._ahead:
                self._ahead[key] = [self._threads.submit(self._example, self._record(key, p), self.seed, key, p) for p in self._positions]
        examples = Examples.joined([future.result() for future in self._ahead.pop(step)])
        if torch.cuda.is_available():
            examples = examples.pinned()
        return Batch(examples.x_BCXYZ, list(self._positions), [self._record(step, p).id for p in self._positions], examples.given)

    def scans(self) -> Iterator[Scan]:
        """The whole split in the store's order, not augmented and not read yet, the same on every rank."""
        return (self._scan(record) for record in self.records)

    def examples(self, wanted: Iterable[Wanted]) -> Iterator[Examples]:
        """Augmented examples of chosen scans, decoded ahead in threads: one by one as in a batch, in the order asked for.

        Args:
            wanted: which; each example is a function of its scan, seed and key, whatever else is asked for.
        """
        waiting: list[Future[Examples]] = []
        for record, seed, key in wanted:
            waiting.append(self._threads.submit(self._example, record, seed, *key))
            if len(waiting) > AHEAD:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()

    def volumes(self) -> Iterator[Tensor]:
        """One pass over the whole split in the store's order: float32 [X, Y, Z] in [-1, 1], not augmented, the same on every rank."""
        waiting: list[Future[Tensor]] = []
        for scan in self.scans():
            waiting.append(self._threads.submit(scan.whole))
            if len(waiting) > self.config.workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()

    def validation_volumes(self, count: int, cuts: int = 1) -> Examples:
        """``cuts`` fixed examples of each of at most ``count`` scans, not augmented: the same for every seed and rank."""
        chosen = sorted(permutation(len(self.records), 0, "validation")[:count])
        futures = [
            self._threads.submit(self._cut, self._scan(self.records[index]), 0, "validation", index, cut)
            for index in chosen
            for cut in range(cuts)
        ]
        return Examples.joined([future.result() for future in futures])

    def close(self) -> None:
        """Ends the threads; batches asked for ahead are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def _record(self, step: int, position: int) -> SubjectRecord:
        epoch, place = divmod(step * self.config.batch_size + position, len(self.records))
        if self._order[0] != epoch:
            self._order = (epoch, permutation(len(self.records), self.seed, "order", epoch))
        return self.records[self._order[1][place]]

    def _scan(self, record: SubjectRecord) -> StoredScan:
        return StoredScan(self._store, record, self._cache, self._cached, self.config.place, self._decoded)

    def _example(self, record: SubjectRecord, seed: int, *key: int | str) -> Examples:
        return self._cut(self._augment(self._scan(record), seed, *key), seed, *key)
