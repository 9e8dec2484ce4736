"""From how many volumes on a number says something, and in which words one is told that there are fewer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COHORT_WORDS = {
    "background": "the background is not clean",
    "volume z": "heads are too large or too small on average",
    "MS-SSIM difference": "volumes are more alike, or less alike, than real people are",
    "high-frequency ratio": "fine detail is lost or noise was added",
    "nearest training: correlation": "volumes are closer to training people than unseen people are",
    "nearest training: MS-SSIM": "volumes are closer to training people than unseen people are",
}
SHARE = 20
"""Volumes behind a share: of 20 without a fault, at most 17 % of all can have one (exact 95 % interval)."""
FRECHET = 25
"""Volumes behind a Frechet distance, on either side: with fewer than its 24 components plus one, a covariance has no inverse."""
FEWEST = {
    "background": 1,
    "volume z": 5,
    "MS-SSIM difference": 8,
    "high-frequency ratio": 1,
    "nearest training: correlation": 5,
    "nearest training: MS-SSIM": 5,
}
"""Generated volumes, and unseen real ones, behind each measure of a cohort."""


def sides(cohort: Mapping[str, Any]) -> tuple[int, int]:
    """Generated volumes, and real people that a model does not see."""
    return int(cohort["count"]["generated"]), int(cohort["count"]["real_validation"])


def enough(target: Mapping[str, Any], cohort: Mapping[str, Any]) -> bool:
    """Whether a target is measured on enough volumes of both sides."""
    return "count" not in cohort or min(sides(cohort)) >= FEWEST.get(target["name"], 1)


def too_few(volumes: int, cohort: Mapping[str, Any] | None) -> list[str]:
    """Sentences of what there are too few volumes for.

    Args:
        volumes: how many were judged.
        cohort: measures of the cohort, if there are any.
    """
    told = []
    if volumes < SHARE:
        told.append(
            f"{volumes} volume{' is' if volumes == 1 else 's are'} few for a share: see its interval; from {SHARE} on it says something."
        )
    if cohort and "count" in cohort:
        ours, real = sides(cohort)
        both = f"({ours} generated, {real} unseen real)"
        small = [target["label"] for target in cohort["targets"] if not enough(target, cohort)]
        if small:
            needed = max(FEWEST[target["name"]] for target in cohort["targets"] if not enough(target, cohort))
            told.append(f"Too few volumes {both} for: {'; '.join(small)}. From {needed} of each on these say something.")
        if min(ours, real) < FRECHET:
            told.append(f"The Frechet distance is of too few volumes {both}: from {FRECHET} of each on it says something.")
    return told
