"""What instruments do to a volume: linear maps from volumes in the model range to data. A file is a kind of operator."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from volgen.core.protocols import Measurement, Operator, Proximal, Shape3
from volgen.images.geometry import Geometry


class OperatorConfig(Protocol):
    """What every file of this folder offers as ``Config``."""

    kind: str

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """The operator for volumes [B, 1, X, Y, Z] of a shape.

        Raises:
            UserError: a file that it needs is missing, damaged or of another shape.
        """
        ...


def measured(operator: Operator, volume_BCXYZ: Tensor, frame: Geometry) -> Measurement:
    """What an operator gives of a whole volume, as a measurement of what is drawn of one."""
    if frame.box is None:
        return Measurement(operator, operator.apply(volume_BCXYZ))
    # A volume is its box and the background around that, which no sample changes; A is linear.
    around = frame.whole(torch.zeros(1, 1, *frame.grid, device=volume_BCXYZ.device))
    return Measurement(Within(operator, frame), operator.apply(volume_BCXYZ - around))


class Within(Operator):
    """An operator of whole volumes, asked about the box of a frame: outside of it are zeros.

    Args:
        operator: that of whole volumes.
        frame: where the box is.
    """

    def __init__(self, operator: Operator, frame: Geometry) -> None:
        self._operator, self._frame = operator, frame
        self.apart = operator.apart

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """A P x, where P puts zeros around the box."""
        return self._operator.apply(self._whole(x_BCXYZ))

    def adjoint(self, data: Tensor) -> Tensor:
        """P* A* d: the box of what the operator makes of the data."""
        return self._frame.place.crop(self._operator.adjoint(data))

    def closed(self, gamma: float) -> Proximal | None:
        """The box of the operator's own, where voxels do not meet in it; there is none where they do."""
        nearest = self._operator.closed(gamma) if self.apart else None
        if nearest is None:
            return None
        return lambda z_BCXYZ, data: self._frame.place.crop(nearest(self._whole(z_BCXYZ), data))

    def _whole(self, x_BCXYZ: Tensor) -> Tensor:
        return self._frame.place.pad(x_BCXYZ, self._frame.shape, 0.0)
