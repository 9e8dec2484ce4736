"""Experts begin from those of a finished run of a public cohort, and what was fitted to that cohort is taken over with them.

Under ``privacy.kind: dp_sgd`` all of that costs nothing: it is a function of people who are not in the private cohort.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from volgen.core.config import MAY_CHANGE
from volgen.core.run_files import CONFIG
from volgen.data.store import Store
from volgen.origin.start import Open, Recipe
from volgen.origin.starts._taken_over import TakenOver, TakenOverConfig


class Config(TakenOverConfig):
    """Each expert starts from the public one that owns most of its noise levels (averaged weights); the preconditioner is taken over."""

    kind: Literal["public"] = "public"
    run: Annotated[str, MAY_CHANGE] = Field(min_length=1)
    """Directory of a finished run with the same shape, voxel size, network and preconditioner."""

    @property
    def address(self) -> str:
        """The public run's directory."""
        return self.run

    @property
    def where(self) -> str:
        """Its key and its directory."""
        return f"start.run {self.run}"

    @property
    def places(self) -> list[str]:
        """The public run's directory."""
        return [self.run]

    @property
    def same_model(self) -> str:
        """How to configure the same model."""
        return f"copy these sections from the public run's {CONFIG}"

    @property
    def same_frame(self) -> str:
        """How to bring a cohort to the same voxels."""
        return "ingest the cohort with the public run's --voxel-size"

    def build(self, recipe: Recipe, store: Store, open_run: Open) -> TakenOver:
        """A beginning from the public run.

        Raises:
            UserError: it is damaged, does not fit, or has seen the same people.
        """
        return TakenOver(self, recipe, store, open_run(Path(self.run)))
