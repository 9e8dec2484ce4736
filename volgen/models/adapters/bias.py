"""Only biases and the scales and shifts of norms are trained (Ben Zaken et al. 2022, "BitFit"; Bu et al. 2022 with differential privacy).

They are less than one weight in a hundred, and the norm of the noise of private training grows with the root of their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Every parameter with one axis; matrices and kernels keep their values."""

    kind: Literal["bias"] = "bias"
    needs_trained: ClassVar[bool] = True

    def attach(self, network: nn.Module) -> None:
        """Freezes everything else.

        Raises:
            ValueError: there are no such parameters.
        """
        chosen = [parameter for parameter in network.parameters() if parameter.dim() == 1]
        if not chosen:
            raise ValueError("the network has no biases or norms")
        network.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)

    def merge(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state itself: nothing was added."""
        return dict(state)
