"""Patches: an expert sees a piece of a volume and where it lies, so that few scans give as many examples as there are places in them.

Only networks that are local go with it: what they make of a voxel depends on a neighbourhood, so a patch in training, a tile of a volume
and the volume as a whole are the same to them, but for what lies beyond a border. In sampling the volume goes through the network as a
whole, or in tiles of ``tile`` voxels with as much around each as the network can see (:mod:`volgen.models.reach`), which gives the same.
The preconditioner is that of pieces, in which no voxel knows of far ones (:class:`volgen.models.denoiser.Pieces`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.config import three
from volgen.core.given import NOTHING, Examples, Given
from volgen.core.protocols import Cut, Denoiser, Scan, Shape3, Take, Weighted
from volgen.core.rng import uniform
from volgen.models.denoiser import Network, NetworkConfig, Preconditioner, PreconditionerConfig, Surrounding, knowing
from volgen.models.place import PLACES, coordinates
from volgen.models.reach import reach

AIR = -0.98
"""Intensity in the model range up to which a voxel is background: that of a stripped head is -1."""
Spans = Sequence[tuple[int, int]]
"""First voxel and the one past the last, along each axis."""
TRIES = 8
"""Places that are looked at for one with enough foreground; the last of them is taken whatever is there."""


class Config(BaseConfig):
    """A patch of the level's volume goes through the network in training; in sampling the volume, or tiles of it."""

    kind: Literal["patches"] = "patches"
    edge: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(default=(64, 64, 64))
    """Voxels of a patch along the RAS+ axes, of the level, or one number for a cube."""
    per_scan: PositiveInt = 1
    """Patches of one scan in an example, under one noise level; they lie side by side along the first axis. What reading, moving and, in
    private training, protecting one costs is shared by all of them."""
    foreground: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least share of a patch that is brighter than background (-0.98 of the model range, [-1, 1]): other places are tried, up to 8."""
    tile: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Voxels that are denoised at once in sampling, without what is needed around them, or one number for a cube; None: all of the
    volume. Small tiles take less memory and, because of what is around them, more time; the result is the same to rounding."""

    @field_validator("edge", "tile", mode="before")
    @classmethod
    def _cube(cls, value: Any) -> Any:
        return None if value is None else three(value)

    @property
    def known(self) -> int:
        """Where each voxel is."""
        return PLACES

    @property
    def places(self) -> bool:
        """Whether that is told: it always is, the preconditioner of pieces needs it too."""
        return True

    @property
    def anywhere(self) -> bool:
        """Whether it can be had of any piece of a volume: a place is one in the whole volume."""
        return False

    def inputs(self, preconditioner: PreconditionerConfig, network: NetworkConfig) -> int:
        """What the preconditioner makes.

        Raises:
            ValueError: the network has an operation over whole volumes.
        """
        if not network.local:
            found = f"network.kind '{network.kind}' as it is configured needs the whole volume (group normalisation, say)"
            raise ValueError(f"{found}, but view.kind 'patches' cuts it: use wavelet_unet3d with norm pixel")
        return preconditioner.inputs

    def piece(self, shape: Shape3, aligned: Shape3) -> Shape3:
        """The patches of one example, side by side.

        Raises:
            ValueError: they do not fit into the volume, or are not aligned to what network and preconditioner halve.
        """
        for name, edges in (("edge", self.edge), ("tile", self.tile)):
            if edges is not None and any(edge % multiple for edge, multiple in zip(edges, aligned, strict=True)):
                raise ValueError(f"view.{name} is {list(edges)}, but network and preconditioner need multiples of {list(aligned)}")
        if any(edge > size or (size - edge) % multiple for edge, size, multiple in zip(self.edge, shape, aligned, strict=True)):
            found = f"view.edge is {list(self.edge)}, but the volume has {list(shape)} voxels at this level"
            raise ValueError(f"{found}: patches begin at multiples of {list(aligned)}, and the last one must end with the volume")
        return self.per_scan * self.edge[0], self.edge[1], self.edge[2]

    def examples(self, shape: Shape3) -> int:
        """How many fill a volume, with their coordinates."""
        return max(1, math.prod(shape) // ((1 + PLACES) * self.per_scan * math.prod(self.edge)))

    def cut(self, cut: Cut, aligned: Shape3, take: Take | None = None) -> Cut:
        """Random patches of a scan, with the coordinates of their voxels. Only they are read."""

        def patches(scan: Scan, seed: int, *key: int | str) -> Examples:
            found, where = [], []
            for number in range(self.per_scan):
                start, patch = self._patch(scan, aligned, seed, *key, number)
                found.append(patch[None] if take is None else take(scan, start, self.edge))
                where.append(coordinates(scan.shape, start, self.edge))
            return Examples(torch.cat(found, dim=1)[None], Given(torch.cat(where, dim=2)))

        return patches

    def of_examples(self, network: Network, preconditioner: Preconditioner) -> Weighted:
        """Patch by patch, as if each were an example of its own at the noise level of its scan."""
        return _PatchDenoiser(network, preconditioner, self.per_scan)

    def denoiser(self, network: Network, preconditioner: Preconditioner, made_of: NetworkConfig) -> Denoiser:
        """The volume as a whole, or tile by tile."""
        return _TileDenoiser(network, preconditioner, made_of, self.tile)

    def _patch(self, scan: Scan, aligned: Shape3, seed: int, *key: int | str) -> tuple[Shape3, Tensor]:
        """Where a patch begins, and its voxels. Its centre is anywhere in the volume, as far as it then lies inside."""
        for number in itertools.count(1):
            drawn = [uniform(seed, "patch", *key, number, axis) for axis in range(3)]
            x, y, z = (
                min(max(round((share * size - edge / 2) / multiple) * multiple, 0), size - edge)
                for share, size, edge, multiple in zip(drawn, scan.shape, self.edge, aligned, strict=True)
            )
            patch = scan.part((x, y, z), self.edge)
            if number == TRIES or float((patch > AIR).float().mean()) >= self.foreground:
                break
        return (x, y, z), patch


class _PatchDenoiser:
    """Denoises examples that are patches side by side along X."""

    def __init__(self, network: Network, preconditioner: Preconditioner, per_scan: int) -> None:
        self._network, self._preconditioner, self._count = network, preconditioner, per_scan

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """x0_BCXYZ; ``given.channels`` ends with the coordinates."""
        assert given.channels is not None, "patches come with their places"
        pieces = self._preconditioner.told(given).pieces()
        rows = torch.arange(len(y_BCXYZ), device=y_BCXYZ.device).repeat_interleave(self._count)
        given = replace(given if self._count == 1 else replace(given, channels=None)[rows], channels=self._apart(given.channels))
        assert given.channels is not None
        surrounding = pieces.at(given.channels[:, -PLACES:])
        x0 = surrounding.denoise(knowing(self._network, given), self._apart(y_BCXYZ), sigma_B[rows])
        return torch.cat(x0.unflatten(0, (-1, self._count)).unbind(1), dim=2)

    def weight(self, sigma_B: Tensor) -> Tensor:
        """The weight of pieces [B]."""
        return self._preconditioner.pieces().weight(sigma_B)

    def _apart(self, x_BCXYZ: Tensor) -> Tensor:
        apart: Tensor = x_BCXYZ.unflatten(2, (self._count, -1))
        return apart.movedim(2, 1).flatten(0, 1)


class _TileDenoiser:
    """A :class:`~volgen.core.protocols.Denoiser` of whole volumes, tile by tile."""

    def __init__(self, network: Network, preconditioner: Preconditioner, made_of: NetworkConfig, tile: Shape3 | None) -> None:
        self._network, self._preconditioner, self._made_of, self._tile = network, preconditioner, made_of, tile
        self._last: tuple[tuple[Any, ...], tuple[Tensor, Surrounding]] | None = None

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """x0_BCXYZ, each tile from what the network sees around it; a tile at the volume's border ends there, as the volume does."""
        x, y, z = y_BCXYZ.shape[2:]
        x0_BCXYZ, known = torch.empty(0), self._preconditioner.told(given)
        for tile, around in self._tiles((x, y, z)):
            where, surrounding = self._at(known, (x, y, z), around, len(y_BCXYZ), y_BCXYZ.device)
            beside = given if given.channels is None else replace(given, channels=given.channels[_box(around)])
            part = surrounding.denoise(knowing(self._network, beside | Given(where)), y_BCXYZ[_box(around)], sigma_B)
            if part.shape == y_BCXYZ.shape:
                return part
            if not len(x0_BCXYZ):
                x0_BCXYZ = torch.empty_like(y_BCXYZ)
            x0_BCXYZ[_box(tile)] = part[_box([(first - low, last - low) for (first, last), (low, _) in zip(tile, around, strict=True)])]
        return x0_BCXYZ

    def _tiles(self, shape: Shape3) -> Iterator[tuple[Spans, Spans]]:
        """Each tile, and what has to go through the network for it."""
        if self._tile is None or all(edge >= size for edge, size in zip(self._tile, shape, strict=True)):
            yield (whole := [(0, size) for size in shape]), whole
            return
        aligned = [math.lcm(stride, self._preconditioner.pieces().multiple) for stride in self._made_of.strides]
        before, behind = ([-(-far // edge) * edge for far, edge in zip(side, aligned, strict=True)] for side in reach(self._made_of))
        for start in itertools.product(*(range(0, size, edge) for size, edge in zip(shape, self._tile, strict=True))):
            tile = [(first, min(first + edge, size)) for first, edge, size in zip(start, self._tile, shape, strict=True)]
            seen = zip(tile, before, behind, shape, strict=True)
            yield tile, [(max(first - low, 0), min(last + high, size)) for (first, last), low, high, size in seen]

    def _at(self, known: Preconditioner, shape: Shape3, around: Spans, count: int, device: torch.device) -> tuple[Tensor, Surrounding]:
        key = (known, shape, tuple(around), count, device)
        if self._last is None or self._last[0] != key:  # that of a volume as a whole is kept from step to step
            (x, i), (y, j), (z, k) = around
            where = coordinates(shape, (x, y, z), (i - x, j - y, k - z)).to(device).expand(count, -1, -1, -1, -1)
            self._last = (key, (where, known.pieces().at(where)))
        return self._last[1]


def _box(spans: Spans) -> tuple[Any, ...]:
    return (..., *(slice(first, last) for first, last in spans))
