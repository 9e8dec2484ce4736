"""Tissue: means of numbers of volumes, beside those of people."""

from __future__ import annotations

from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.comparisons._shared import effects
from volgen.evaluation.two_cohorts import CohortFindings, TwoCohorts


class Config(BaseConfig):
    """Differences of means in standard deviations of people (Cohen's d), for each number of the extractor ``tissue``."""

    kind: Literal["tissue"] = "tissue"
    place: ClassVar[int] = 6
    paper: ClassVar[str] = ""

    def compare(self, both: TwoCohorts) -> CohortFindings:
        """One effect size for each number."""
        return effects(both, self.kind, "Tissue", "tissue")
