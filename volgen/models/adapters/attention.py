"""Only attention layers are trained: few weights, and those that bring far parts of a volume together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from volgen.core.config import Config as BaseConfig

SELF_ATTENTION = "SABlock"
"""MONAI's name for it; its other layers, and torch's, have "Attention" in theirs."""


class Config(BaseConfig):
    """Attention layers with their own norm; every other weight keeps its value."""

    kind: Literal["attention"] = "attention"
    needs_trained: ClassVar[bool] = True

    def attach(self, network: nn.Module) -> None:
        """Freezes everything else.

        Raises:
            ValueError: there are no attention layers.
        """
        layers = [module for module in network.modules() if "Attention" in type(module).__name__ or type(module).__name__ == SELF_ATTENTION]
        if not layers:
            raise ValueError("the network has no attention layers")
        network.requires_grad_(False)
        for layer in layers:
            layer.requires_grad_(True)

    def merge(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state itself: nothing was added."""
        return dict(state)
