"""A 2D network over every slice of a volume, each with its neighbours: what networks made of slices share.

Legend: B batch, C channel, N slices along the axis, H W the other two axes in their order, E embedding.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from volgen.core.protocols import AXES, Axis, Shape3
from volgen.models.haar import analyse, synthesise
from volgen.models.networks._residual_unet import FourierEmbedding, ResidualUNet, ResidualUNetConfig, beside


class SliceConfig(ResidualUNetConfig):
    """What every network made of slices can choose, beside widths and blocks."""

    neighbours: int = Field(default=2, ge=0, le=16)
    """Slices on each side that a slice sees, at the same noise level; 0: every slice is on its own. Outside of the volume they are zero."""
    slices_at_once: PositiveInt = 32
    """Slices that go through the 2D network together. Fewer take less memory; with activation checkpointing also in training."""

    @property
    def local(self) -> bool:
        """Whether what it makes of a voxel depends on a neighbourhood of it alone: not, slices know their place."""
        return False

    @property
    def placed(self) -> bool:
        """Whether it has to be told where voxels are: it need not."""
        return False

    @property
    def strides(self) -> Shape3:
        """What edges are multiples of."""
        return self.multiples

    @property
    @abstractmethod
    def multiples(self) -> Shape3:
        """What edges of a volume must be multiples of."""

    def multiples_across(self, axes: tuple[Axis, ...]) -> Shape3:
        """What edges must be multiples of, for slices across ``axes``: a Haar level halves both edges of a slice."""
        edge = int(2**self.haar_levels)
        x, y, z = (edge if any(other != axis for other in axes) else 1 for axis in AXES)
        return x, y, z


class Slices(ResidualUNet):
    """``forward(x_BCXYZ, noise_B) -> [B, outputs, X, Y, Z]``: slice i is denoised from slices i - k ... i + k, the noise and its place.

    The place is (2 i + 1) / N - 1, in (-1, 1): where in the head a slice lies, whatever its number of voxels.
    """

    def __init__(self, config: SliceConfig, axis: Axis, inputs: int, checkpointing: bool, outputs: int) -> None:
        bands = 4**config.haar_levels
        # Whole chunks of slices are computed again, so their inner activations need not be.
        super().__init__(2, bands * inputs * (2 * config.neighbours + 1), bands * outputs, config, checkpointing=False)
        self.axis, self.haar_levels = AXES.index(axis) + 2, config.haar_levels
        self.neighbours, self.slices_at_once, self.recompute = config.neighbours, config.slices_at_once, checkpointing
        self.embed_place = FourierEmbedding(self.embedding)

    def forward(self, x_BCXYZ: Tensor, noise_B: Tensor, told_BE: Tensor | None = None, kept_BK: Tensor | None = None) -> Tensor:
        """[B, inputs, X, Y, Z], log(sigma) / 4 [B] and an embedding of what is told -> [B, outputs, X, Y, Z]."""
        x_BCNHW = x_BCXYZ.movedim(self.axis, 2)
        count = x_BCNHW.shape[2]
        made: list[Tensor] = []
        for start in range(0, count, self.slices_at_once):
            stop = min(start + self.slices_at_once, count)
            if self.recompute and torch.is_grad_enabled():
                made.append(checkpoint(self._chunk, x_BCNHW, noise_B, told_BE, kept_BK, start, stop, use_reentrant=False))
            else:
                made.append(self._chunk(x_BCNHW, noise_B, told_BE, kept_BK, start, stop))
        return torch.cat(made, dim=1).movedim(2, 1).movedim(2, self.axis)

    def _chunk(
        self, x_BCNHW: Tensor, noise_B: Tensor, told_BE: Tensor | None, kept_BK: Tensor | None, start: int, stop: int
    ) -> Tensor:  # fmt: skip
        """Slices ``start`` ... ``stop - 1``: [B, stop - start, outputs, H, W]."""
        count, k = x_BCNHW.shape[2], self.neighbours
        low, high = max(start - k, 0), min(stop + k, count)
        seen = functional.pad(x_BCNHW[:, :, low:high], (0, 0, 0, 0, low - start + k, stop + k - high))
        # [B, C, n + 2k, H, W] -> [B, n, C * (2k + 1), H, W], the slice's own channels among its neighbours'.
        windows = seen.unfold(2, 2 * k + 1, 1).permute(0, 2, 1, 5, 3, 4).flatten(2, 3)
        places = (2 * torch.arange(start, stop, device=x_BCNHW.device) + 1) / count - 1
        embedding = beside(self.embed_noise(noise_B), told_BE)[:, None] + self.embed_place(places)
        h = windows.flatten(0, 1)
        for _ in range(self.haar_levels):
            h = analyse(h)
        # All slices of a volume keep the same features: they are one example.
        kept = None if kept_BK is None else kept_BK.repeat_interleave(stop - start, dim=0)
        h = super().forward(h, embedding.flatten(0, 1), kept_BK=kept)
        for _ in range(self.haar_levels):
            h = synthesise(h)
        return h.unflatten(0, windows.shape[:2])  # type: ignore[no-any-return]
