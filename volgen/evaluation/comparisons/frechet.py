"""Frechet distance of features, with its floor."""

from __future__ import annotations

from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.comparisons._shared import in_components
from volgen.evaluation.frechet import frechet_distance
from volgen.evaluation.two_cohorts import CohortFindings, TwoCohorts


class Config(BaseConfig):
    """Frechet distance of two Gaussians, in up to 24 components of people on neither side, whose total variance is 1."""

    kind: Literal["frechet"] = "frechet"
    place: ClassVar[int] = 1
    paper: ClassVar[str] = (
        "Heusel M, Ramsauer H, Unterthiner T, Nessler B, Hochreiter S. GANs trained by a two time-scale update rule "
        "converge to a local Nash equilibrium. NeurIPS 2017."
    )

    def compare(self, both: TwoCohorts) -> CohortFindings:
        """The distance of whole volumes, of slices by plane, and of 2.5D features."""
        labels = {"distance": "Frechet distance"}
        return in_components(both, self.kind, "Frechet distance", labels, lambda ours, real: {"distance": frechet_distance(ours, real)})
