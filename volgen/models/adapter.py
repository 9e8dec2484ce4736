"""What of a network is trained, and how ordinary weights come out of it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from torch import Tensor, nn


class AdapterConfig(Protocol):
    """What every file in ``volgen/models/adapters`` offers as ``Config``."""

    kind: str
    needs_trained: ClassVar[bool]
    """Whether only a part is trained, so that it needs trained weights to begin with."""

    def attach(self, network: nn.Module) -> None:
        """Prepares a network in place: what is not trained does not require a gradient, and its output is what it was.

        Raises:
            ValueError: the network has nothing of the kind.
        """
        ...

    def merge(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the network as it was before :meth:`attach`, from the prepared one's state; its outputs are the same to round-off."""
        ...
