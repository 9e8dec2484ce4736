"""Scans stay where the scanner put them."""

from __future__ import annotations

from typing import Literal

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Nothing is registered: each scan has its own frame."""

    kind: Literal["none"] = "none"

    @property
    def template(self) -> None:
        """What frame scans are brought into: none but their own."""
        return None
