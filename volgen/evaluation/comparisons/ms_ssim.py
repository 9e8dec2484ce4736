"""How alike volumes are to each other, beside how alike real people are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.comparisons._shared import FEWEST_MEAN, refused
from volgen.evaluation.floor import Parting, Places, floored
from volgen.evaluation.ms_ssim import ms_ssim, pyramid
from volgen.evaluation.two_cohorts import CohortFindings, CohortNumber, TwoCohorts

MOST = 40
"""Volumes of either side whose pairs are compared."""
PART = "whole"


class Config(BaseConfig):
    """Mean MS-SSIM over pairs of volumes of at most 64 voxels along an edge, and that of real people: alone, a number means nothing."""

    kind: Literal["ms_ssim"] = "ms_ssim"
    place: ClassVar[int] = 4
    paper: ClassVar[str] = (
        "Wang Z, Simoncelli EP, Bovik AC. Multiscale structural similarity for image quality assessment. Asilomar "
        "Conference on Signals, Systems and Computers 2003."
    )

    def compare(self, both: TwoCohorts) -> CohortFindings:
        """``pairs``: mean over generated pairs minus mean over real pairs; above 0 they are less diverse than people."""
        title = "Likeness of volumes to each other (MS-SSIM)"
        if PART not in both.rows:
            return CohortFindings(self.kind, title, skipped=both.odd.get(PART, "whole volumes were not kept"))
        ours, real = (np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int)) for count in (both.ours, both.real))
        rows = [*ours, *(both.ours + real)]
        pyramids = [pyramid(both.rows[PART][row].reshape(both.shapes[PART])) for row in rows]
        table = np.full((len(rows), len(rows)), np.nan)
        for first, own in ((0, len(ours)), (len(ours), len(rows))):
            for i in range(first, own):
                for j in range(i + 1, own):
                    table[i, j] = table[j, i] = ms_ssim(pyramids[i], pyramids[j])
        parting = Parting.of(len(ours), len(real), fits=False)

        def statistic(a: Places, b: Places, fitted: Places) -> Mapping[str, float]:
            return {"pairs": float(np.nanmean(table[np.ix_(a, a)]) - np.nanmean(table[np.ix_(b, b)]))}

        why = refused(parting, FEWEST_MEAN)
        found = {} if why else floored(statistic, len(ours), len(real), parting, both.seed)
        means = {}
        if not why:
            means = {name: float(np.nanmean(part)) for name, part in
                     (("generated", table[: len(ours), : len(ours)]), ("real", table[len(ours) :, len(ours) :]))}  # fmt: skip
        number = CohortNumber("pairs", "MS-SSIM of generated pairs minus that of real pairs", PART, parting, found.get("pairs"), why, means)
        return CohortFindings(self.kind, title, [number])
