"""What instruments do to a volume: linear maps from volumes in the model range to data. A file is a kind of operator."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from volgen.core.protocols import Measurement, Operator, Proximal, Shape3
from volgen.core.rng import normal
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


def measured(operator: Operator, volume_BCXYZ: Tensor, frame: Geometry, noise: float = 0.0, seed: int = 0) -> Measurement:
    """What an operator gives of a whole volume, as a measurement of what is drawn of one.

    Args:
        operator: that of whole volumes.
        volume_BCXYZ: in the model range, B = 1.
        frame: what of it is drawn.
        noise: standard deviation of white noise that is added to the data, to each part of a complex number; 0 if they hold theirs.
        seed: which noise.
    """
    data = operator.apply(volume_BCXYZ)
    if noise:
        drawn = normal((*data.shape, 2) if data.is_complex() else data.shape, seed, "measurement").to(data.device)
        data = data + noise * operator.seen(torch.view_as_complex(drawn) if data.is_complex() else drawn)
    return _drawn(operator, data, frame, noise)


def acquired(operator: Operator, signal: Tensor, frame: Geometry, *, gain: float, noise: float) -> Measurement:
    """Data of an instrument, which sees intensities, as a measurement in the model range.

    Intensities are u = (x + 1) / 2, so that air has none and gives no signal: ``signal`` is gain A u, and 2 signal / gain - A 1 is A x.

    Args:
        operator: that of whole volumes.
        signal: what the instrument gave, of one volume (B = 1).
        frame: what of a volume is drawn.
        gain: signal of the brightest intensity of the model range, u = 1: the top of the intensity window, if signals have its units.
        noise: standard deviation of the signal's noise, of each part of a complex number.
    """
    ones = torch.ones(1, 1, *frame.shape, device=signal.device)
    data = operator.seen(2.0 / gain * signal - operator.apply(ones))
    return _drawn(operator, data, frame, 2.0 / gain * noise)


def emitted(operator: Operator, volume_BCXYZ: Tensor) -> Tensor:
    """The signal of a volume in the model range, A (x + 1) / 2: what an instrument of gain 1 gives of its intensities, without noise."""
    return operator.apply((volume_BCXYZ + 1.0) / 2.0)


def _drawn(operator: Operator, data: Tensor, frame: Geometry, noise: float) -> Measurement:
    if frame.box is None:
        return Measurement(operator, data, noise)
    # A volume is its box and the background around that, which no sample changes; A is linear.
    around = frame.whole(torch.zeros(1, 1, *frame.grid, device=data.device))
    return Measurement(Within(operator, frame), data - operator.apply(around), noise)


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

    def seen(self, data: Tensor) -> Tensor:
        """What the operator says."""
        return self._operator.seen(data)

    def closed(self, gamma: float) -> Proximal | None:
        """The box of the operator's own, where voxels do not meet in it; there is none where they do."""
        nearest = self._operator.closed(gamma) if self.apart else None
        if nearest is None:
            return None
        return lambda z_BCXYZ, data: self._frame.place.crop(nearest(self._whole(z_BCXYZ), data))

    def _whole(self, x_BCXYZ: Tensor) -> Tensor:
        return self._frame.place.pad(x_BCXYZ, self._frame.shape, 0.0)
