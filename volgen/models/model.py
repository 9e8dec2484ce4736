"""What an expert is made of: a network, the level at which it works, and what of a volume it sees.

Let P_l take the means over cubes of 2^l voxels. If y = x0 + s z with white z, then P_l y = P_l x0 + s_l z' with white z' and
s_l = s / 2^(1.5 l): an ordinary noisy volume of 2^l times the voxel size (Jing et al. 2022, subspace diffusion). So an expert of level l
is trained on P_l x0 at noise levels s_l, and the denoiser D_l that it learns stands for one of whole volumes,

    D(y, s) = E(y, s) + U_l [D_l(P_l y, s_l) - P_l E(y, s)],

where U_l repeats each voxel in its cube and E is what is expected without a network. P_l is, up to scale, the low-pass corner of l
orthonormal Haar levels, so D has the expert's estimate in that corner and E's in all finer bands: exact as far as noise of s leaves
nothing in the finer bands that E does not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Cut, Denoiser, Scan, Shape3, Take, Weighted
from volgen.models.denoiser import Network, NetworkConfig, Preconditioner, PreconditionerConfig
from volgen.models.haar import corner_scale, means, spread
from volgen.models.mirrored import MirroredDenoiser
from volgen.models.view import ViewConfig

Sigma = TypeVar("Sigma", float, Tensor)


@dataclass(frozen=True)
class ExpertModel:
    """What an expert is made of; experts of equal models can take over each other's weights.

    Attributes:
        network: its network.
        view: what of a volume of its level goes through the network at once.
        level: it works on voxels of 2^level times the run's edge; 0 is full resolution.
        mirrored: whether its denoiser is asked about both sides (:mod:`volgen.models.mirrored`), which weights know nothing of.
    """

    network: NetworkConfig
    view: ViewConfig
    level: int = 0
    mirrored: bool = field(default=False, compare=False)

    def inputs(self, preconditioner: PreconditionerConfig) -> int:
        """Input channels of the network, without what is known beside a piece.

        Raises:
            ValueError: this preconditioner has nothing to expect in the bands that the level leaves out, or does not go with the view.
        """
        if self.network.placed and not self.view.places:
            raise ValueError(
                f"network.place: the network is not told where voxels are by view.kind '{self.view.kind}'; set view.place true"
            )
        if self.level > preconditioner.coarsest:
            found = f"level is {self.level}, but preconditioner.kind '{preconditioner.kind}' knows what to expect of finer voxels"
            raise ValueError(f"{found} up to level {preconditioner.coarsest} only")
        return self.view.inputs(preconditioner, self.network)

    def aligned(self, preconditioner: PreconditionerConfig) -> Shape3:
        """What pieces of a volume of the level begin at multiples of: to network and preconditioner they are then what they are in it."""
        x, y, z = (math.lcm(stride, max(preconditioner.multiple >> self.level, 1)) for stride in self.network.strides)
        return x, y, z

    def piece(self, shape: Shape3, preconditioner: PreconditionerConfig) -> Shape3:
        """Voxels that go through the network at once, of volumes of ``shape`` at full resolution.

        Raises:
            ValueError: such volumes cannot be seen at this level, or with this view.
        """
        return self.view.piece(self.shape(shape), self.aligned(preconditioner))

    def shape(self, shape: Shape3) -> Shape3:
        """Voxels of the level, of a volume of ``shape`` at full resolution.

        Raises:
            ValueError: an edge is not a multiple of the level's voxels.
        """
        edge = 2**self.level
        if any(size % edge for size in shape):
            raise ValueError(f"level {self.level} needs edges that are multiples of {edge}, not {list(shape)}")
        x, y, z = (size // edge for size in shape)
        return x, y, z

    def sigma(self, sigma: Sigma) -> Sigma:
        """The noise level that the expert sees where a volume at full resolution has ``sigma``."""
        return sigma_of_means(sigma, self.level)

    def cut(self, cut: Cut, preconditioner: PreconditionerConfig, take: Take | None = None) -> Cut:
        """What of a scan at full resolution the expert is trained on, from what the run's assembly makes of it.

        Args:
            cut: that of the assembly.
            preconditioner: the run's.
            take: what there is of a box of the level's voxels, if that is something else than these.
        """
        seen = self.view.cut(cut, self.aligned(preconditioner), take)
        return (lambda scan, seed, *key: seen(CoarseScan(scan, self.level), seed, *key)) if self.level else seen

    def of_examples(self, network: Network, preconditioner: Preconditioner) -> Weighted:
        """The denoiser of examples that a network makes in training, from the preconditioner of its level; asked about :meth:`sigma`."""
        return self.view.of_examples(network, preconditioner)

    def denoiser(self, network: Network, preconditioner: Preconditioner) -> Denoiser:
        """The denoiser of whole volumes at full resolution that a trained network stands for."""
        inner = self.of_level(network, preconditioner)
        return LevelDenoiser(inner, preconditioner, self.level) if self.level else inner

    def corner(self, network: Network, preconditioner: Preconditioner) -> Denoiser:
        """The denoiser of the level's corners of volumes (:mod:`volgen.models.corners`) that a trained network is: without finer bands."""
        inner = self.of_level(network, preconditioner)
        return CornerDenoiser(inner, self.level) if self.level else inner

    def of_level(self, network: Network, preconditioner: Preconditioner) -> Denoiser:
        """The denoiser of volumes of the level that a trained network is, asked about :meth:`sigma`, from the run's preconditioner."""
        inner = self.view.denoiser(network, preconditioner.coarse(self.level), self.network)
        return MirroredDenoiser(inner) if self.mirrored else inner


class LevelDenoiser:
    """A :class:`~volgen.core.protocols.Denoiser` of volumes at full resolution, made of one of a coarser level.

    Attributes:
        inner: the denoiser of volumes of the level, asked about their noise level.
        level: number of the level, at least 1.
    """

    def __init__(self, inner: Denoiser, preconditioner: Preconditioner, level: int) -> None:
        self.inner, self.level = inner, level
        self._preconditioner = preconditioner

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """Returns x0_BCXYZ by the equation of this module; of images that are given, the expert sees their means too."""
        expected = self._preconditioner.expected(y_BCXYZ, sigma_B)
        coarse = self.inner(means(y_BCXYZ, self.level), sigma_of_means(sigma_B, self.level), _seen(given, self.level))
        return expected + spread(coarse - means(expected, self.level), self.level)


class CornerDenoiser:
    """A :class:`~volgen.core.protocols.Denoiser` of the corners of volumes, made of one of a coarser level.

    Attributes:
        inner: the denoiser of volumes of the level, asked about their noise level.
        level: number of the level, at least 1.
    """

    def __init__(self, inner: Denoiser, level: int) -> None:
        self.inner, self.level = inner, level

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """Returns the clean corner; ``sigma_B`` is that of full resolution, which noise has in a corner too."""
        scale = corner_scale(self.level)
        return self.inner(y_BCXYZ / scale, sigma_of_means(sigma_B, self.level), _seen(given, self.level)) * scale


class CoarseScan:
    """A :class:`~volgen.core.protocols.Scan` at a coarser level; of the full one only what is needed is read."""

    def __init__(self, scan: Scan, level: int) -> None:
        self._scan, self._edge = scan, 2**level

    @property
    def shape(self) -> Shape3:
        """Voxels of the level along R, A, S."""
        x, y, z = (size // self._edge for size in self._scan.shape)
        return x, y, z

    @property
    def about(self) -> Mapping[str, Any]:
        """What is said of the full scan."""
        return self._scan.about

    def whole(self) -> Tensor:
        """All voxels, float32 [X, Y, Z] in [-1, 1]."""
        return self._scan.coarse(self._edge)

    def slices(self, axis: int, start: int, stop: int) -> Tensor:
        """Slices ``start`` ... ``stop - 1`` of the level along an axis."""
        return self.whole().narrow(axis, start, stop - start)

    def part(self, start: Shape3, size: Shape3) -> Tensor:
        """A box of the level."""
        return self.whole()[tuple(slice(first, first + count) for first, count in zip(start, size, strict=True))]

    def coarse(self, edge: int) -> Tensor:
        """Means of cubes of ``edge``^3 voxels of the level."""
        return self._scan.coarse(edge * self._edge)

    def states(self, start: Shape3, size: Shape3, *, climbed: bool) -> Tensor:
        """States of a box of the level, where the scan is a drawn volume that has some (:class:`volgen.core.protocols.Trajectory`)."""
        states: Tensor = self._scan.states(start, size, climbed=climbed, level=self._edge.bit_length() - 1)  # type: ignore[attr-defined]
        return states


def _seen(given: Given, level: int) -> Given:
    """What an expert of a level sees of what is given at full resolution."""
    return given if given.channels is None else replace(given, channels=means(given.channels, level))


def sigma_of_means(sigma: Sigma, level: int) -> Sigma:
    """Noise level of the means over cubes of 2^level voxels, where the voxels have ``sigma``: s / 2^(1.5 l)."""
    return sigma / corner_scale(level)
