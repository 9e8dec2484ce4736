"""Precision, recall, density and coverage, with their floors."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.comparisons._shared import in_components
from volgen.evaluation.neighbours import neighbour_shares
from volgen.evaluation.two_cohorts import CohortFindings, TwoCohorts


class Config(BaseConfig):
    """Shares by balls to the 5th nearest neighbour, in the components of ``frechet``. Not even people reach 1 against people."""

    kind: Literal["neighbours"] = "neighbours"
    place: ClassVar[int] = 3
    paper: ClassVar[str] = (
        "Kynkaanniemi T, Karras T, Laine S, Lehtinen J, Aila T. Improved precision and recall metric for assessing "
        "generative models. NeurIPS 2019; Naeem MF, Oh SJ, Uh Y, Choi Y, Yoo J. Reliable fidelity and diversity metrics for "
        "generative models. ICML 2020."
    )

    nearest: PositiveInt = 5
    """Which neighbour a ball reaches to."""

    def compare(self, both: TwoCohorts) -> CohortFindings:
        """Four shares of each part."""
        labels = {name: name.capitalize() for name in ("precision", "recall", "density", "coverage")}
        title = "Precision (generated among real) and recall (real among generated), density and coverage"
        return in_components(both, self.kind, title, labels, lambda a, b: neighbour_shares(a, b, self.nearest))
