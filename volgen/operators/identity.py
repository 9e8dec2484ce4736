"""Nothing but noise: the volume itself was measured."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Operator, Proximal, Shape3


class Config(BaseConfig):
    """The volume as it is: denoising."""

    kind: Literal["identity"] = "identity"

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator."""
        return Untouched()


class Untouched(Operator):
    """A x = x."""

    apart = True

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """The volume as it is."""
        return x_BCXYZ

    def adjoint(self, data: Tensor) -> Tensor:
        """The data as they are."""
        return data

    def closed(self, gamma: float) -> Proximal:
        """(z + gamma data) / (1 + gamma)."""
        weight = 1.0 if math.isinf(gamma) else gamma / (1.0 + gamma)
        return lambda z_BCXYZ, data: torch.lerp(z_BCXYZ, data, weight)
