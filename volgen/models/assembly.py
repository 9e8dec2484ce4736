"""How a volume is put together from what a denoiser denoises at once: the whole of it, or slab after slab."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from volgen.core.given import Examples, Given
from volgen.core.protocols import Scan, Shape3

Box = tuple[Any, ...]
"""Slices of [..., X, Y, Z]."""


class Draw(Protocol):
    """Draws one piece of several samples, by the denoiser and the solver of the run."""

    def __call__(self, indices: Sequence[int], place: Box, given: Sequence[Given]) -> list[Tensor]:
        """The piece at ``place`` of the samples ``indices``, each [1, X, Y, Z] of the piece, not clamped.

        Args:
            indices: which samples.
            place: where in the volume, so that noise is that of the place.
            given: what is known beside the piece of each sample (B = 1 each).
        """
        ...


class Assembly(Protocol):
    """Puts volumes together, with what it has learnt from the cohort to do so."""

    def pieces(self, shape: Shape3) -> int:
        """How many pieces one volume takes."""
        ...

    def generate(self, draw: Draw, shape: Shape3, seed: int, indices: Sequence[int]) -> list[Tensor]:
        """Whole samples [1, X, Y, Z] in the order of ``indices``; sample i depends on ``seed`` and i alone."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Tensors that restore this object, for ``assembly.safetensors`` (empty if it has none). They may tell of no single person."""
        ...


class AssemblyConfig(Protocol):
    """What every file in ``volgen/models/assemblies`` offers as ``Config``."""

    kind: str
    fitted: ClassVar[bool]
    """Whether it draws from what was fitted to people."""
    piecewise: ClassVar[bool]
    """Whether a volume is denoised in pieces, one drawn from others: a preconditioner must not know a voxel's place then, a piece needs all
    experts before the next one can be drawn, and a scan cannot be denoised at once."""

    @property
    def known(self) -> int:
        """Channels (:attr:`volgen.core.given.Given.channels`) of what is known beside a piece."""
        ...

    def piece(self, shape: Shape3) -> Shape3:
        """Voxels of a piece of a volume of ``shape``.

        Raises:
            ValueError: such volumes cannot be put together this way.
        """
        ...

    def cuts(self, shape: Shape3) -> int:
        """Different pieces of a volume that take about the memory of the volume: what of each is validated on."""
        ...

    def cut(self, scan: Scan, seed: int, *key: int | str) -> Examples:
        """A training example (:class:`~volgen.core.protocols.Cut`): a random piece [1, 1, X, Y, Z] and what is known beside it."""
        ...

    def fit(self, scans: Callable[[], Iterable[Scan]], people: Sequence[str], seed: int) -> Assembly:
        """Learns from training scans.

        Args:
            scans: starts one pass.
            people: who each scan of a pass is of.
            seed: seed of anything random in the fit.

        Raises:
            ValueError: there are too few people.
        """
        ...

    def restore(self, state: Mapping[str, Tensor]) -> Assembly:
        """Inverse of :meth:`Assembly.state`.

        Raises:
            KeyError: it is not the state of this kind.
        """
        ...
