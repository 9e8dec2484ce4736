"""The whole volume at once: every network of a volume, whether it works in three dimensions or on all slices together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.given import NOTHING, Examples
from volgen.core.protocols import Scan, Shape3
from volgen.models.assembly import Assembly, Draw


class Config(BaseConfig):
    """Nothing to put together; the default."""

    kind: Literal["whole"] = "whole"
    fitted: ClassVar[bool] = False
    piecewise: ClassVar[bool] = False

    @property
    def known(self) -> int:
        """Nothing is known beside a whole volume."""
        return 0

    def piece(self, shape: Shape3) -> Shape3:
        """The volume's shape."""
        return shape

    def cuts(self, shape: Shape3) -> int:
        """There is one whole."""
        return 1

    def cut(self, scan: Scan, seed: int, *key: int | str) -> Examples:
        """The scan, and nothing beside it."""
        return Examples(scan.whole()[None, None])

    def fit(self, scans: Callable[[], Iterable[Scan]], people: Sequence[str], seed: int) -> Assembly:
        """Nothing to learn."""
        return Whole()

    def restore(self, state: Mapping[str, Tensor]) -> Assembly:
        """Nothing was stored."""
        return Whole()


class Whole:
    """A volume is one piece."""

    def pieces(self, shape: Shape3) -> int:
        """One piece, the volume itself."""
        return 1

    def generate(self, draw: Draw, shape: Shape3, seed: int, indices: Sequence[int]) -> list[Tensor]:
        """What is drawn, as it is."""
        return draw(indices, (slice(None),) * 3, [NOTHING] * len(indices))

    def state(self) -> dict[str, Tensor]:
        """Nothing to store."""
        return {}
