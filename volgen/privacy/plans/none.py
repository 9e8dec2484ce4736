"""No privacy: the null object. Training is as usual, and the ledger says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Training without a privacy guarantee."""

    kind: Literal["none"] = "none"

    @property
    def private(self) -> bool:
        """No."""
        return False

    def refusals(self, recipe: Any) -> Iterator[str]:
        """Nothing is in the way of no guarantee."""
        return iter(())

    def ledger(self) -> dict[str, Any]:
        """Content of ``privacy_ledger.json``: no epsilon, and why."""
        return {
            "unit": "patient",
            "neighbouring": "add-or-remove-one",
            "delta": None,
            "epsilon": None,
            "accountant": None,
            "why": "the model was trained without differential privacy",
            "entries": [],
        }
