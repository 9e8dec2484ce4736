"""Where denoisers work: on voxels as they are, or on what an autoencoder makes of them (:mod:`volgen.models.latents`)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Domain(Protocol):
    """A way from volumes to what denoisers see of them, and back."""

    @property
    def voxels(self) -> bool:
        """Whether denoisers see volumes as they are."""
        ...

    def encode(self, x_BCXYZ: Tensor) -> Tensor:
        """What denoisers are trained on, [B, 1, x, y, z], of clean volumes [B, 1, X, Y, Z]; on the device of these, without a graph."""
        ...

    def decode(self, z_BCXYZ: Tensor) -> Tensor:
        """Volumes [B, 1, X, Y, Z] of what denoisers have drawn; on the device of that, with a graph if that has one."""
        ...


class Voxels:
    """Denoisers see volumes: the null object of spaces."""

    voxels = True

    def encode(self, x_BCXYZ: Tensor) -> Tensor:
        """The volumes themselves."""
        return x_BCXYZ

    def decode(self, z_BCXYZ: Tensor) -> Tensor:
        """The volumes themselves."""
        return z_BCXYZ


VOXELS = Voxels()
