"""Experts begin from random weights, or from each other: the null object of beginning from a public run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Everything is learnt from the cohort; ``experts.warm_start`` says what each expert starts from. The default."""

    kind: Literal["scratch"] = "scratch"

    @property
    def public(self) -> bool:
        """No."""
        return False

    def keeps(self, points: Sequence[float]) -> bool:
        """Whether an expert of these noise levels is taken over as it is: there is nothing to take it from."""
        return False
