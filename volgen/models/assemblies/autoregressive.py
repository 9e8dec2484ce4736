"""Slab after slab: each from the slices before it, its place in the head and a coarse volume of all of it.

The factorisation is p(x) = p(coarse) prod_j p(slab_j | the k slices before it, place, coarse). Slices are drawn from slices that were
drawn before, so errors add up along the stack (drift). Three things work against it: the chain starts in the middle and grows both
ways, so it is half as long; the slices before get noise, in training as in sampling, so that small errors do not matter (as Ho et al.
2022, "Cascaded diffusion models", do with their conditioning images); and the coarse volume, drawn first, says where the head ends.

Legend: N slices of a slab, K slices before it, H W the other two axes in their order, C channels of what is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import interpolate

from volgen.core.config import Config as BaseConfig
from volgen.core.given import Examples, Given
from volgen.core.limits import MAX_LEVELS, MAX_RANK, MAX_WIDTH
from volgen.core.protocols import AXES, Axis, Scan, Shape3
from volgen.core.rng import normal, uniform
from volgen.models.assembly import Assembly, Box, Draw
from volgen.models.denoiser import Preconditioner
from volgen.models.preconditioners.gaussian import Config as Gaussian


class Config(BaseConfig):
    """Slabs along one axis, drawn one after the other."""

    kind: Literal["autoregressive"] = "autoregressive"
    fitted: ClassVar[bool] = True
    piecewise: ClassVar[bool] = True
    axis: Axis = "S"
    """Along which axis slabs follow each other."""
    thickness: PositiveInt = 1
    """Slices that are drawn together; must divide the number of slices."""
    context: int = Field(default=3, ge=1, le=MAX_WIDTH)
    """Slices before a slab that it is drawn from."""
    start: Literal["middle", "end"] = "middle"
    """Which slab comes first: the middle one, from which the stack grows both ways, or the one with the lowest index."""
    context_noise: NonNegativeFloat = 0.1
    """Standard deviation, in the model range, of noise on the slices before, in training and in sampling: against drift."""
    coarse_levels: int = Field(default=3, ge=0, le=MAX_LEVELS)
    """The coarse volume has voxels of (2^coarse_levels)^3, by which every edge must divide; 0: no coarse volume."""
    coarse_noise: NonNegativeFloat = 0.05
    """Standard deviation of noise on the coarse volume, in training and in sampling: it hides that drawn ones are Gaussian."""
    coarse_rank: int = Field(default=24, ge=1, le=MAX_RANK)
    """Components of the Gaussian that coarse volumes are drawn from."""
    coarse_folds: int = Field(default=6, ge=2)
    """Folds of its cross-fit: at least as many people are needed."""

    @property
    def known(self) -> int:
        """The slices before; how many of them there are; place; direction; coarse volume."""
        return self.context + 3 + (self.coarse_levels > 0)

    def piece(self, shape: Shape3) -> Shape3:
        """Voxels of a slab.

        Raises:
            ValueError: slabs or the voxels of the coarse volume do not tile the volume.
        """
        axis, edge = AXES.index(self.axis), 2**self.coarse_levels
        if shape[axis] % self.thickness:
            raise ValueError(f"thickness {self.thickness} does not divide the {shape[axis]} slices along {self.axis}")
        if any(size % edge for size in shape):
            raise ValueError(f"coarse_levels {self.coarse_levels} needs edges that are multiples of {edge}, not {list(shape)}")
        x, y, z = (self.thickness if place == axis else size for place, size in enumerate(shape))
        return x, y, z

    def cuts(self, shape: Shape3) -> int:
        """How many slabs fill a volume, with what is known beside them."""
        return max(1, shape[AXES.index(self.axis)] // (self.thickness * (1 + self.known)))

    def order(self, shape: Shape3) -> list[Slab]:
        """All slabs, in the order in which they are drawn. What a slab is drawn from has been drawn before."""
        count = shape[AXES.index(self.axis)] // self.thickness
        first = count // 2 if self.start == "middle" else 0
        slabs = [self._slab(number, first) for number in range(count)]
        return [slabs[first], *slabs[first + 1 :], *reversed(slabs[:first])]

    def _slab(self, number: int, first: int) -> Slab:
        m, k = self.thickness, self.context
        start, stop = number * m, (number + 1) * m
        # Nothing beyond the first slab, seen from here: when the stack grows up, nothing below it has been drawn, and the other way round.
        if number > first:
            return Slab(number, start, stop, 1, tuple(range(start - 1, max(start - k, first * m) - 1, -1)))
        if number < first:
            return Slab(number, start, stop, -1, tuple(range(stop, min(stop + k, (first + 1) * m))))
        return Slab(number, start, stop, 0, ())

    def cut(self, scan: Scan, seed: int, *key: int | str) -> Examples:
        """A random slab of a scan and what is known beside it. Only its slices are read, and, once for each scan, the coarse volume."""
        axis = AXES.index(self.axis)
        slabs = self.order(scan.shape)
        slab = slabs[int(uniform(seed, "slab", *key) * len(slabs))]
        low, high = min([slab.start, *slab.before]), max([slab.stop, *(place + 1 for place in slab.before)])
        read_NHW = scan.slices(axis, low, high).movedim(axis, 0)
        before = [read_NHW[place - low] for place in slab.before]
        coarse = scan.coarse(2**self.coarse_levels) if self.coarse_levels else None
        known = self.beside(slab, before, coarse, scan.shape, seed, *key)
        clean = read_NHW[slab.start - low : slab.stop - low].movedim(0, axis)
        return Examples(clean[None, None], Given(known[None]))

    def beside(self, slab: Slab, before: Sequence[Tensor], coarse_XYZ: Tensor | None, shape: Shape3, seed: int, *key: int | str) -> Tensor:
        """What is known beside a slab, [C, X, Y, Z], in the model range or of order 1.

        Args:
            slab: which.
            before: the slices before it, [H, W] each, the nearest first.
            coarse_XYZ: coarse volume of all of it.
            shape: voxels of the whole volume.
            seed: seed of the noise.
            key: key of the noise.
        """
        axis, m, k = AXES.index(self.axis), self.thickness, self.context
        size = [edge for place, edge in enumerate(shape) if place != axis]
        seen_KHW = torch.zeros(k, *size)
        if before:
            clean = torch.stack(list(before))
            seen_KHW[: len(before)] = clean + self.context_noise * normal(clean.shape, seed, "context", *key)
        place_N = (2 * torch.arange(slab.start, slab.stop) + 1) / shape[axis] - 1
        channels = [
            *(seen.expand(m, *size) for seen in seen_KHW),
            torch.full((m, *size), len(before) / k),
            place_N[:, None, None].expand(m, *size),
            torch.full((m, *size), float(slab.direction)),
        ]
        if coarse_XYZ is not None:
            noisy = coarse_XYZ + self.coarse_noise * normal(coarse_XYZ.shape, seed, "coarse", *key)
            channels.append(_refined(noisy.movedim(axis, 0), slab.start, slab.stop, shape[axis], size))
        return torch.stack(channels).movedim(1, axis + 1)

    def fit(self, scans: Callable[[], Iterable[Scan]], people: Sequence[str], seed: int) -> Assembly:
        """Fits a Gaussian to the coarse volumes of the cohort.

        Raises:
            ValueError: there are fewer people than folds.
        """
        if not self.coarse_levels:
            return Autoregressive(self, None)
        if len(set(people)) < self.coarse_folds:
            raise ValueError(
                f"assembly.coarse_folds is {self.coarse_folds}, but there are {len(set(people))} people: lower it, or coarse_levels 0"
            )
        edge = 2**self.coarse_levels
        return Autoregressive(self, self._gaussian.fit(lambda: (scan.coarse(edge) for scan in scans()), people, seed))

    def restore(self, state: Mapping[str, Tensor]) -> Assembly:
        """Inverse of :meth:`Autoregressive.state`."""
        return Autoregressive(self, self._gaussian.restore(state) if self.coarse_levels else None)

    @property
    def _gaussian(self) -> Gaussian:
        return Gaussian(levels=0, rank=self.coarse_rank, rank_level=0, folds=self.coarse_folds)


@dataclass(frozen=True)
class Slab:
    """Slices that are drawn together.

    Attributes:
        number: among the slabs, from the low end.
        start: first slice.
        stop: one past the last slice.
        direction: 1 if the stack grows up here, -1 if it grows down, 0 for the first.
        before: slices that it is drawn from, the nearest first.
    """

    number: int
    start: int
    stop: int
    direction: int
    before: tuple[int, ...]


class Autoregressive:
    """Draws slab after slab, of all samples together."""

    def __init__(self, config: Config, gaussian: Preconditioner | None) -> None:
        self.config = config
        self.gaussian = gaussian

    def pieces(self, shape: Shape3) -> int:
        """Number of slabs."""
        return len(self.config.order(shape))

    def generate(self, draw: Draw, shape: Shape3, seed: int, indices: Sequence[int]) -> list[Tensor]:
        """Volumes in [-1, 1]: what slabs are drawn from is what ends in the file."""
        axis = AXES.index(self.config.axis)
        volumes = [torch.empty(1, *shape) for _ in indices]
        coarse = [self._coarse(shape, seed, index) for index in indices]
        for slab in self.config.order(shape):
            place: Box = tuple(slice(slab.start, slab.stop) if a == axis else slice(None) for a in range(3))
            known = []
            for index, volume, small in zip(indices, volumes, coarse, strict=True):
                before = [volume[0].select(axis, other) for other in slab.before]
                beside = self.config.beside(slab, before, small, shape, seed, "sample", index, slab.number)
                known.append(Given(beside[None]))
            for volume, piece in zip(volumes, draw(indices, place, known), strict=True):
                volume[(slice(None), *place)] = piece.clamp(-1.0, 1.0)
        return volumes

    def state(self) -> dict[str, Tensor]:
        """The Gaussian of coarse volumes."""
        return self.gaussian.state() if self.gaussian is not None else {}

    def _coarse(self, shape: Shape3, seed: int, index: int) -> Tensor | None:
        """A coarse volume that is nobody's."""
        if self.gaussian is None:
            return None
        noise = normal((1, 1, *(size >> self.config.coarse_levels for size in shape)), seed, "coarse view", index)
        return self.gaussian.prior(noise, 0.0)[0, 0].clamp(-1.0, 1.0)


def _refined(coarse_NHW: Tensor, start: int, stop: int, count: int, size: Sequence[int]) -> Tensor:
    """Slices ``start`` ... ``stop - 1`` of ``count``, of the trilinear interpolation of coarse voxels to ``count`` slices of ``size``."""
    places = ((torch.arange(start, stop) + 0.5) * len(coarse_NHW) / count - 0.5).clamp(0, len(coarse_NHW) - 1)
    low = places.floor().long()
    share = (places - low)[:, None, None]
    between = (1 - share) * coarse_NHW[low] + share * coarse_NHW[(low + 1).clamp(max=len(coarse_NHW) - 1)]
    return interpolate(between[None], size=list(size), mode="bilinear", align_corners=False)[0]
