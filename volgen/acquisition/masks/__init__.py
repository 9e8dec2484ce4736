"""Which phase encodes of a 3D scan are measured. A file is a kind of mask, a function of its fields and a grid."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class MaskConfig(Protocol):
    """What every file of this folder offers as ``Config``."""

    kind: str

    def draw(self, shape: tuple[int, int]) -> Tensor:
        """Which phase encodes are measured, bool [P, Q] on the CPU; the centre of k-space is at (P // 2, Q // 2).

        Raises:
            UserError: the grid has no such mask.
        """
        ...
