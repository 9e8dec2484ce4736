"""Kernel distance of features (KID), with its floor."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.comparisons._shared import Matrix, in_components
from volgen.evaluation.kernel import kernel_distance
from volgen.evaluation.two_cohorts import CohortFindings, TwoCohorts


class Config(BaseConfig):
    """Cubic and unbiased (:func:`volgen.evaluation.kernel.kernel_distance`), in the components of ``frechet`` with mean variance 1."""

    kind: Literal["kid"] = "kid"
    place: ClassVar[int] = 2
    paper: ClassVar[str] = "Binkowski M, Sutherland DJ, Arbel M, Gretton A. Demystifying MMD GANs. ICLR 2018."

    def compare(self, both: TwoCohorts) -> CohortFindings:
        """The distance of the same parts as ``frechet``."""

        def distance(ours: Matrix, real: Matrix) -> dict[str, float]:
            scale = np.sqrt(ours.shape[1])  # the kernel divides by the number of components, whose variances add up to 1
            return {"distance": kernel_distance(ours * scale, real * scale)}

        return in_components(both, self.kind, "Kernel distance (KID)", {"distance": "Kernel distance"}, distance)
