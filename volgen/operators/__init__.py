"""What instruments do to a volume: linear maps from volumes in the model range to data. A file is a kind of operator."""

from __future__ import annotations

from typing import Protocol

import torch

from volgen.core.protocols import Operator, Shape3


class OperatorConfig(Protocol):
    """What every file of this folder offers as ``Config``."""

    kind: str

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """The operator for volumes [B, 1, X, Y, Z] of a shape.

        Raises:
            UserError: a file that it needs is missing, damaged or of another shape.
        """
        ...
