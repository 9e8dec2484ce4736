"""k-space as scanners count it: orthonormal, with its centre, and that of the image, at edge // 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def to_kspace(image: Tensor, axes: Sequence[int]) -> Tensor:
    """The Fourier transform along some axes."""
    return _centred(torch.fft.fftn, image, tuple(axes))


def from_kspace(kspace: Tensor, axes: Sequence[int]) -> Tensor:
    """The inverse; along the readout alone it makes hybrid space of k-space, in which white noise stays white."""
    return _centred(torch.fft.ifftn, kspace, tuple(axes))


def _centred(transform: Callable[..., Any], x: Tensor, axes: tuple[int, ...]) -> Tensor:
    moved: Tensor = torch.fft.fftshift(transform(torch.fft.ifftshift(x, dim=axes), dim=axes, norm="ortho"), dim=axes)
    return moved
