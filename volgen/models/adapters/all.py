"""Every weight is trained: the null object of adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """The whole network, as it is. The default."""

    kind: Literal["all"] = "all"
    needs_trained: ClassVar[bool] = False

    def attach(self, network: nn.Module) -> None:
        """Nothing to prepare."""

    def merge(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state itself."""
        return dict(state)
