"""What the training loop needs of the layers beside it; the command brings the real things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from volgen.core.given import Given
from volgen.core.protocols import Pulse


class Batch(Protocol):
    """This rank's part of one optimiser step.

    Attributes:
        x_BCXYZ: clean volumes in [-1, 1].
        positions: places of the volumes in the global batch.
        ids: their subjects.
        given: what is known beside them.
    """

    @property
    def x_BCXYZ(self) -> Tensor:
        """Clean volumes in [-1, 1]."""
        ...

    @property
    def positions(self) -> Sequence[int]:
        """Places in the global batch."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """Ids of their subjects."""
        ...

    @property
    def given(self) -> Given:
        """What is known beside the volumes."""
        ...


class Engine(Protocol):
    """A network with its optimiser, perhaps sharded over ranks."""

    accumulation: int
    updates: int

    def __call__(self, input_BCXYZ: Tensor, noise_B: Tensor, *told: Mapping[str, Tensor]) -> Tensor:
        """The network's output; ``told`` is what it is told beside, for one with conditions."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds a micro-batch's gradient."""
        ...

    def step(self, learning_rate: float) -> float:
        """Updates the weights; returns the gradient's norm, which is not finite if the update was skipped."""
        ...

    def masters(self) -> list[Tensor]:
        """The fp32 weights that this rank owns."""
        ...

    def full_state(self) -> dict[str, Tensor]:
        """All fp32 weights and buffers, on the CPU of every rank."""
        ...

    @property
    def kinds(self) -> Sequence[str]:
        """Names of what training needs to go on: ``weights``, and each of the optimiser's moments."""
        ...

    def read(self, kind: str) -> Iterator[tuple[str, Tensor]]:
        """One kind as whole fp32 tensors by name, on the CPU of every rank; a collective that must be exhausted."""
        ...

    def write(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of ``read``."""
        ...


class Ranks(Protocol):
    """The processes that train together."""

    rank: int
    world_size: int

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over ranks."""
        ...

    def gather(self, text: str) -> list[str]:
        """Every rank's text."""
        ...

    def barrier(self) -> None:
        """Waits for all ranks."""
        ...


class _NoPulse:
    def beat(self) -> None:
        pass


NO_PULSE: Pulse = _NoPulse()
"""Nobody listens: nothing but this process can die."""


class Remembers(Protocol):
    """What has to go on where it was after a restart, such as who judges a phase."""

    def state(self) -> dict[str, float | int | None]:
        """Its memory, for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, float | int | None]) -> None:
        """Inverse of :meth:`state`."""
        ...
