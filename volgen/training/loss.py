"""The denoising loss (Karras et al. 2022, equation 2), one number per volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser


class Weight(Protocol):
    """Loss weight [B] of noise levels [B]; part of a preconditioner."""

    def __call__(self, sigma_B: Tensor) -> Tensor:
        """Returns positive weights."""
        ...


class Objective(Protocol):
    """What a batch is denoised with and how its loss is weighted; this may depend on who is in it (cross-fitting)."""

    def __call__(self, ids: Sequence[str]) -> tuple[Denoiser, Weight]:
        """The denoiser being trained and the loss weight, for training volumes ``ids`` in this order."""
        ...


def denoising_loss(
    denoise: Denoiser, weight: Weight, x_BCXYZ: Tensor, noise_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING
) -> Tensor:  # fmt: skip
    """weight(sigma) * mean over voxels of (D(x0 + sigma z; sigma) - x0)^2.

    Args:
        denoise: the denoiser being trained.
        weight: its loss weight.
        x_BCXYZ: clean volumes in [-1, 1].
        noise_BCXYZ: standard normal z.
        sigma_B: noise levels, positive.
        given: what is known beside the volumes.

    Returns:
        Loss [B]: not averaged over volumes, so that a bad subject can be named and gradients can be clipped per patient.
    """
    y_BCXYZ = x_BCXYZ + sigma_B[:, None, None, None, None] * noise_BCXYZ
    error_BCXYZ = denoise(y_BCXYZ, sigma_B, given) - x_BCXYZ
    return weight(sigma_B) * error_BCXYZ.square().mean(dim=(1, 2, 3, 4))
