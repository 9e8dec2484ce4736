"""Experts begin from random weights, or from each other: the null object of beginning from a public run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from volgen.core.config import Config as BaseConfig
from volgen.data.store import Store
from volgen.experts.plan import Phase
from volgen.images.geometry import Geometry
from volgen.origin.start import Facts, Open, Recipe


class Config(BaseConfig):
    """Everything is learnt from the cohort; ``experts.warm_start`` says what each expert starts from. The default."""

    kind: Literal["scratch"] = "scratch"

    @property
    def warm(self) -> bool:
        """Whether networks begin from trained weights: they do not, theirs are random."""
        return False

    @property
    def brings_fit(self) -> bool:
        """Whether what is fitted comes with it: it does not, it is fitted to the cohort."""
        return False

    @property
    def places(self) -> list[str]:
        """No other places are known."""
        return []

    def check(self, recipe: Recipe) -> None:
        """There have to be weights of one's own.

        Raises:
            ValueError: the adapter needs trained ones.
        """
        if recipe.adapter.needs_trained:
            raise ValueError(
                f"adapter.kind '{recipe.adapter.kind}' changes trained weights, but start.kind is '{self.kind}': use public or pretrained"
            )

    def keeps(self, points: Sequence[float]) -> bool:
        """Whether an expert of these noise levels is taken over as it is: there is nothing to take it from."""
        return False

    def told(self, recipe: Recipe) -> str:
        """What ``experts.warm_start`` says."""
        experts = recipe.experts
        chains = f", in {experts.chains} chains" if experts.chains > 1 else ""
        return {"neighbour": f"the one trained before it{chains}", "shared": "the shared network", "none": "random weights"}[
            experts.warm_start
        ]

    def assumptions(self) -> list[str]:
        """Nothing is assumed."""
        return []

    def caveat(self) -> str:
        """Nothing more has to be said."""
        return ""

    def build(self, recipe: Recipe, store: Store, open_run: Open) -> Scratch:
        """A beginning from nothing."""
        return Scratch()


class Scratch:
    """A :class:`~volgen.origin.start.Start` from nothing."""

    @property
    def inputs(self) -> Facts:
        """Nothing is taken over."""
        return {}

    @property
    def assumed(self) -> Facts:
        """Nothing is taken over."""
        return {}

    def check(self, geometry: Geometry) -> None:
        """Any frame will do."""

    def check_same(self, directory: Path) -> None:
        """Everything began from nothing."""

    def fit(self) -> None:
        """Everything is to be fitted."""
        return

    def weights(self, phase: Phase) -> None:
        """Random weights: none are given."""
        return

    def kept(self, phase: Phase) -> None:
        """Everything is trained."""
        return
