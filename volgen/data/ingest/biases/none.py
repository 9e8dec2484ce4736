"""Scans stay as shaded as the scanner made them."""

from __future__ import annotations

from typing import Literal

from volgen.core.config import Config as BaseConfig
from volgen.images.volume import Volume


class Config(BaseConfig):
    """Nothing is corrected."""

    kind: Literal["none"] = "none"

    def corrected(self, volume: Volume) -> Volume:
        """The scan as it is."""
        return volume
