"""A box of voxels in a volume: what of it is computed on, and how what was computed becomes a volume again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self, overload

import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from volgen.core.config import Config, three
from volgen.core.protocols import Shape3


class BoxConfig(Config):
    """Voxels ``start`` to ``start + size - 1`` along each axis of a volume."""

    start: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]
    """First voxel along the RAS+ axes, from 0."""
    size: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Voxels along the RAS+ axes, or one number for a cube."""

    @field_validator("start", "size", mode="before")
    @classmethod
    def _cube(cls, value: Any) -> Any:
        return three(value)

    @classmethod
    def whole(cls, shape: Shape3) -> Self:
        """All of a volume."""
        return cls(start=(0, 0, 0), size=shape)

    @classmethod
    def around(cls, boxes: Iterable[BoxConfig]) -> Self:
        """The smallest box that holds all of some."""
        found = list(boxes)
        x, y, z = (min(edges) for edges in zip(*(box.start for box in found), strict=True))
        i, j, k = (max(edges) for edges in zip(*(box.stop for box in found), strict=True))
        return cls(start=(x, y, z), size=(i - x, j - y, k - z))

    @property
    def stop(self) -> Shape3:
        """One past the last voxel along each axis."""
        x, y, z = (first + edge for first, edge in zip(self.start, self.size, strict=True))
        return x, y, z

    @property
    def place(self) -> tuple[Any, ...]:
        """The box as an index of [..., X, Y, Z]."""
        return (..., *(slice(first, last) for first, last in zip(self.start, self.stop, strict=True)))

    def holds(self, other: BoxConfig) -> bool:
        """Whether another box of the same volume is inside of this one."""
        lower = all(mine <= theirs for mine, theirs in zip(self.start, other.start, strict=True))
        return lower and all(mine >= theirs for mine, theirs in zip(self.stop, other.stop, strict=True))

    def coarser(self, level: int) -> Self:
        """The box in voxels that are 2^level times as large.

        Raises:
            ValueError: such voxels do not fit into it.
        """
        if any(edge % 2**level for edge in (*self.start, *self.size)):
            raise ValueError(f"the box at {self.start} with {self.size} voxels does not divide by {2**level}")
        return type(self)(start=_divided(self.start, level), size=_divided(self.size, level))

    def mirrored(self, shape: Shape3) -> BoxConfig:
        """The box in a volume of ``shape`` whose left and right have changed places."""
        return BoxConfig(start=(shape[0] - self.stop[0], *self.start[1:]), size=self.size)

    def grown(self, margins: Shape3, shape: Shape3) -> BoxConfig:
        """The box with ``margins`` voxels more at both ends of each axis, as far as a volume of ``shape`` has them."""
        x, y, z = (max(0, first - more) for first, more in zip(self.start, margins, strict=True))
        i, j, k = (min(edge, last + more) for last, more, edge in zip(self.stop, margins, shape, strict=True))
        return BoxConfig(start=(x, y, z), size=(i - x, j - y, k - z))

    def seen_from(self, other: BoxConfig) -> BoxConfig:
        """The same voxels in a volume that is another box, which holds this one."""
        x, y, z = (mine - theirs for mine, theirs in zip(self.start, other.start, strict=True))
        return BoxConfig(start=(x, y, z), size=self.size)

    def whole_cubes(self, edge: int) -> bool:
        """Whether it consists of cubes of ``edge``^3 voxels, counted from the volume's first."""
        return not any(number % edge for number in (*self.start, *self.size))

    def coarse(self, edge: int) -> BoxConfig:
        """The box in means over cubes of ``edge``^3 voxels, of which it consists."""
        assert self.whole_cubes(edge), "cubes would be cut"
        x, y, z = (first // edge for first in self.start)
        i, j, k = (size // edge for size in self.size)
        return BoxConfig(start=(x, y, z), size=(i, j, k))

    @overload
    def crop(self, volume: Tensor) -> Tensor: ...

    @overload
    def crop(self, volume: NDArray[Any]) -> NDArray[Any]: ...

    def crop(self, volume: Any) -> Any:
        """The box of [..., X, Y, Z]; a view."""
        return volume[self.place]

    def pad(self, box: Tensor, shape: Shape3, fill: float) -> Tensor:
        """A volume [..., X, Y, Z] of ``shape`` that holds [..., x, y, z] in this box, and ``fill`` outside of it."""
        if tuple(box.shape[-3:]) == shape:
            return box
        volume = torch.full((*box.shape[:-3], *shape), fill, dtype=box.dtype, device=box.device)
        volume[self.place] = box
        return volume


def _divided(edges: Shape3, level: int) -> Shape3:
    x, y, z = (edge >> level for edge in edges)
    return x, y, z
