"""A random half of a training split: runs on halves are what an audit learns from, because who is in one was left to a coin."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from volgen.core.config import Config


class HalfConfig(Config):
    """Trains on the patients for whom a coin fell on one side; the others of the training split are held out, and nobody looks at them."""

    seed: int = Field(default=0, ge=0, lt=2**128)
    """Seed of the coins. The coins of two seeds have nothing to do with each other."""
    side: Literal["a", "b"] = "a"
    """Which side. Runs on ``a`` and ``b`` of one seed share nobody."""

    def holds(self, patient: str) -> bool:
        """Whether a patient is trained on: one fair coin for each, a hash (BLAKE2b) of seed and id."""
        digest = hashlib.blake2b(patient.encode(), digest_size=8, person=b"volgen half", salt=self.seed.to_bytes(16, "little")).digest()
        return (digest[0] < 128) == (self.side == "a")
