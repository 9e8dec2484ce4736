"""Whether volumes are nearer to people that were trained on than to as many others, against the number of people."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.likeness import standardised
from volgen.evaluation.mask import head_mask
from volgen.evaluation.two_cohorts import CohortFindings, TwoCohorts

PART = "whole"
LEVEL = 0.05
DRAWS = 20
FEWEST = 5
"""Held-out people from which on the quantile of their ratios is one."""
Matrix = NDArray[np.float64]


class Config(BaseConfig):
    """The share of volumes that are nearer to people trained on than people are, for n = 2, 4, 8 and so on of them.

    Of each volume r = d(nearest of n trained-on people) / d(nearest of n others), d = 1 - correlation inside the heads; counted is what is
    below the 5 % quantile that held-out people have among themselves. Volumes that know nobody have a share of 0.05, copies one of 1.
    Both sets have n people, because the nearest of more is nearer.
    """

    kind: Literal["memorisation"] = "memorisation"
    place: ClassVar[int] = 8
    paper: ClassVar[str] = (
        "Clopper CJ, Pearson ES. The use of confidence or fiducial limits illustrated in the case of the binomial. "
        "Biometrika 1934; 26: 404-413."
    )

    def compare(self, both: TwoCohorts) -> CohortFindings:
        """``by_people``: ``{"people", "share", "interval", "below"}`` with the exact 95 % interval of Clopper and Pearson (1934)."""
        title = "Memorisation against the number of people"
        trained, others = (both.ours + np.flatnonzero(both.trained == side) for side in (True, False))
        most = min(len(trained), len(others) - 1)
        if PART not in both.rows:
            return CohortFindings(self.kind, title, skipped=both.odd.get(PART, "whole volumes were not kept"))
        if most < 2 or len(others) < FEWEST:
            found = f"{len(trained)} trained-on people and {len(others)} others in the store"
            return CohortFindings(self.kind, title, skipped=f"not measured: {found}, and it takes 2 and {FEWEST}")
        volumes = both.rows[PART].reshape(len(both.rows[PART]), *both.shapes[PART]).astype(np.float32)
        head = np.logical_or.reduce([head_mask(volumes[row]) for row in both.people])
        rows = standardised(list(volumes), head)
        apart = 1.0 - rows @ rows.T
        counts = [2**power for power in range(1, 12) if 2**power < most]
        curve = [self._share(apart, both, trained, others, count) for count in [*counts, most]]
        return CohortFindings(self.kind, title, more={"by_people": curve, "trained": len(trained), "others": len(others), "level": LEVEL})

    @staticmethod
    def _share(apart: Matrix, both: TwoCohorts, trained: NDArray[np.int64], others: NDArray[np.int64], count: int) -> dict[str, Any]:
        random = np.random.default_rng((both.seed, count))
        below, limits = [], []
        for _ in range(DRAWS):
            known = random.permutation(trained)[:count]
            ratios = []
            for person in others:
                rest = random.permutation(others[others != person])[:count]
                ratios.append(apart[person, known].min() / max(float(apart[person, rest].min()), 1e-12))
            limits.append(float(np.quantile(ratios, LEVEL)))
            strangers = random.permutation(others)[:count]
            ours = apart[: both.ours, known].min(axis=1) / np.maximum(apart[: both.ours, strangers].min(axis=1), 1e-12)
            below.append(ours < limits[-1])
        share = float(np.mean(below))
        interval = binomtest(round(share * both.ours), both.ours).proportion_ci(0.95, "exact")
        return {"people": count, "share": share, "interval": [interval.low, interval.high], "below": float(np.mean(limits))}
