"""Jumps along the probability flow, from any noise level to any lower one (Song et al. 2023; Kim et al. 2024).

The skip path is the flow of a Gaussian in closed form (:attr:`volgen.models.denoiser.Surrounding.flow_map`), and a network corrects it:

    f(x, s -> s') = flow(x, s -> s') + (1 - s'/s) q(s) F(inputs, s)

with inputs, q and F of the preconditioned denoiser D = E + q F. So f(x, s -> s) = x by construction, an untrained network already draws
volumes of the Gaussian in one jump, and with the weights of a denoiser the correction is Euler's step of what D is not Gaussian in.

What jumps is a denoiser too, that with which a straight step to where a jump ends is the jump: from f(x, s -> s') = D + s'/s (x - D)
follows D = (f - s'/s x) / (1 - s'/s), which is f where jumps end at 0. So a preconditioner of jumps (:class:`Jumping`) goes wherever one
of denoisers goes: patches, tiles, coarser levels and mirror images are linear in D at one s'/s, and know nothing of jumps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Weighted
from volgen.models.denoiser import Network, Pieces, Preconditioner, Surrounding
from volgen.models.haar import analyse, corner_scale

End = Callable[[float], float]
"""Noise level -> where a jump from it ends, lower."""
Ends = Callable[[Tensor], Tensor]
"""The same of those of a batch [B]."""


def ends(end: End) -> Ends:
    """Where jumps from the noise levels of a batch end."""
    return lambda sigma_B: sigma_B.new_tensor([end(sigma) for sigma in sigma_B.tolist()])


class _Straight:
    """A :class:`~volgen.models.denoiser.Surrounding` by the equations of this module.

    Args:
        inner: what surrounds the network of a denoiser; it has a ``flow_map``.
        goal: where jumps end.
    """

    flow_map = None
    """A straight step is one jump; there is no other flow to ask for."""

    def __init__(self, inner: Surrounding, goal: Ends) -> None:
        assert inner.flow_map is not None, "there is nothing to jump along"
        self._inner, self._goal, self._flow = inner, goal, inner.flow_map

    def denoise(self, network: Network, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """D of the jump that a network makes."""
        to_B = self._goal(sigma_B)
        correction = self._inner.denoise(network, y_BCXYZ, sigma_B) - self._inner.expected(y_BCXYZ, sigma_B)
        jumped = self._flow(y_BCXYZ, sigma_B, to_B) + (1.0 - to_B / sigma_B)[:, None, None, None, None] * correction
        return _straight(y_BCXYZ, jumped, sigma_B, to_B)

    def expected(self, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """D of the jump without a network."""
        to_B = self._goal(sigma_B)
        return _straight(y_BCXYZ, self._flow(y_BCXYZ, sigma_B, to_B), sigma_B, to_B)


class _StraightPieces:
    """The :class:`~volgen.models.denoiser.Pieces` of it."""

    def __init__(self, inner: Pieces, goal: Ends) -> None:
        self._inner, self._goal = inner, goal
        self.multiple = inner.multiple

    def at(self, places_BCXYZ: Tensor) -> Surrounding:
        """What surrounds the network for pieces whose voxels have these coordinates."""
        return _Straight(self._inner.at(places_BCXYZ), self._goal)

    def weight(self, sigma_B: Tensor) -> Tensor:
        """The loss weight of pieces [B]."""
        return self._inner.weight(sigma_B)


class Jumping(_Straight):
    """The part of a :class:`~volgen.models.denoiser.Preconditioner` that denoisers are made with, for networks that jump.

    Args:
        inner: that of a denoiser, at a level of voxels; it has a ``flow_map``.
        goal: where jumps end, in the noise levels of full resolution.
        level: that of ``inner``.
    """

    def __init__(self, inner: Preconditioner, goal: Ends, level: int = 0) -> None:
        super().__init__(inner, _seen(goal, level))
        self._preconditioner, self._full, self._level = inner, goal, level

    def told(self, given: Given) -> Jumping:
        """The same of volumes of which something is true, row by row; itself where nothing is told that is known of."""
        known = self._preconditioner.told(given)
        return self if known is self._preconditioner else Jumping(known, self._full, self._level)

    def coarse(self, level: int) -> Jumping:
        """The same for means over cubes of 2^level voxels."""
        return Jumping(self._preconditioner.coarse(level), self._full, self._level + level) if level else self

    def pieces(self) -> Pieces:
        """The same for pieces of volumes."""
        return _StraightPieces(self._preconditioner.pieces(), self._goal)

    def weight(self, sigma_B: Tensor) -> Tensor:
        """The loss weight [B] of the denoiser."""
        return self._preconditioner.weight(sigma_B)


class Jump:
    """The function f of this module.

    Args:
        made: the denoiser that a network is, behind a preconditioner: :meth:`volgen.models.model.ExpertModel.of_examples`, say.
        preconditioner: that of what the denoiser is asked about; it has a ``flow_map``.
    """

    def __init__(self, made: Callable[[Preconditioner], Weighted], preconditioner: Preconditioner) -> None:
        assert preconditioner.flow_map is not None, "there is nothing to jump along"
        self._made, self._preconditioner = made, preconditioner

    def __call__(self, x_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor, given: Given = NOTHING) -> Tensor:
        """The volumes at ``to_B`` on the paths that lead through ``x_BCXYZ`` at ``sigma_B``; what does not move stays, bit for bit.

        Args:
            x_BCXYZ: noisy volumes.
            sigma_B: their noise levels, positive.
            to_B: lower ones, 0 for clean volumes, or the same.
            given: what is known beside the volumes.
        """

        def goal(seen_B: Tensor) -> Tensor:
            return to_B.repeat_interleave(len(seen_B) // len(to_B))  # of patches of one volume, one after another

        denoise = self._made(Jumping(self._preconditioner, goal))  # type: ignore[arg-type]  # all that a denoiser is made with
        left = (to_B / sigma_B)[:, None, None, None, None]
        return x_BCXYZ + (1.0 - left) * (denoise(x_BCXYZ, sigma_B, given) - x_BCXYZ)

    def missed(self, error_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor, detail: float) -> Tensor:
        """Mean squares [B] of errors at the ends of jumps, in units of the mean square of what the network's output is multiplied with.

        Args:
            error_BCXYZ: errors.
            sigma_B: where jumps begin.
            to_B: where they end.
            detail: the finest bands of a Haar pyramid, which only voxels of full resolution show, count 1 + ``detail`` times.
        """
        x, y, z = (edge // 2 * 2 for edge in error_BCXYZ.shape[2:])
        fine = analyse(error_BCXYZ[:, :, :x, :y, :z])[:, error_BCXYZ.shape[1] :].square().sum(dim=(1, 2, 3, 4))
        squares = error_BCXYZ.square().mean(dim=(1, 2, 3, 4)) + detail * fine / error_BCXYZ[0].numel()
        return squares * self._made(self._preconditioner).weight(sigma_B) / (1.0 - to_B / sigma_B).square()


def _straight(x_BCXYZ: Tensor, jumped_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor) -> Tensor:
    """The denoiser with which a straight step is the jump; where that goes nowhere, any is: the volume itself."""
    left = (to_B / sigma_B)[:, None, None, None, None]
    return torch.where(left < 1.0, (jumped_BCXYZ - left * x_BCXYZ) / (1.0 - left).clamp(min=torch.finfo(left.dtype).tiny), x_BCXYZ)


def _seen(goal: Ends, level: int) -> Ends:
    """Where jumps end in the noise levels of means over cubes of 2^level voxels."""
    scale = corner_scale(level)
    return (lambda sigma_B: goal(sigma_B * scale) / scale) if level else goal
