"""Experts begin from those of a finished run of a public cohort, and what was fitted to that cohort is taken over with them.

Under ``privacy.kind: dp_sgd`` all of that costs nothing: it is a function of people who are not in the private cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Each expert starts from the averaged weights of the public one that owns its noise levels; the preconditioner is taken over."""

    kind: Literal["public"] = "public"
    run: str = Field(min_length=1)
    """Directory of a finished run with the same shape, voxel size, network and preconditioner."""
    sigma: tuple[PositiveFloat, PositiveFloat] | None = None
    """[low, high]: experts whose noise levels lie in it are trained, the others are those of the public run, unchanged. All if None."""
    shared_ids: bool = False
    """Whether a patient id that both cohorts use belongs to two people (every data set has a sub-01); otherwise it is refused."""
    stores: tuple[str, ...] = ()
    """Where cohorts of the public run, and of runs that it began from, are now, if not where manifests say; known by fingerprint."""
    not_compared: bool = False
    """Whether a private run may begin where such a cohort is not at hand, so that nobody can look for people who are in both."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.sigma and self.sigma[0] > self.sigma[1]:
            raise ValueError(f"sigma {list(self.sigma)} is empty: its low end is above its high end")
        return self

    @property
    def public(self) -> bool:
        """Yes."""
        return True

    def keeps(self, points: Sequence[float]) -> bool:
        """Whether an expert of these noise levels is taken over as it is.

        Raises:
            ValueError: some of them lie in the range and some do not.
        """
        if self.sigma is None:
            return False
        inside = [self.sigma[0] <= point <= self.sigma[1] for point in points]
        if any(inside) and not all(inside):
            found = f"sigma {list(self.sigma)} cuts through an expert, which owns {min(points):.4g} to {max(points):.4g}"
            raise ValueError(f"{found}: move the range, or choose experts.points so that an expert begins there")
        return not any(inside)
