"""Experts begin from those of a model of the package: what pays where a cohort has 20 to 200 scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from volgen.core import pretrained
from volgen.core.errors import UserError
from volgen.data.store import Store
from volgen.images.geometry import Geometry, middle
from volgen.origin.start import FinishedRun, Open, Recipe
from volgen.origin.starts._taken_over import TakenOver, TakenOverConfig

NEAR = 0.05
"""mm by which the middles of two grids in one frame may differ."""


class Config(TakenOverConfig):
    """Each expert starts from that of a model of the package that owns most of its noise levels; the preconditioner is the model's."""

    kind: Literal["pretrained"] = "pretrained"
    name: str = Field(min_length=1)
    """Which model: the NAME of ``pretrained:NAME``."""

    @property
    def address(self) -> str:
        """What the model is called where a run is asked for."""
        return f"{pretrained.PREFIX}{self.name}"

    @property
    def where(self) -> str:
        """Its key and its name."""
        return f"start.name {self.name}"

    @property
    def places(self) -> list[str]:
        """No places: the package is everywhere."""
        return []

    @property
    def same_model(self) -> str:
        """How to configure the same model."""
        return f"begin with volgen train --config {self.address} --data.store STORE, and change what is to be otherwise"

    @property
    def same_frame(self) -> str:
        """How to bring a cohort to the same voxels."""
        return f"volgen explain {self.address} says how its cohort was ingested"

    def build(self, recipe: Recipe, store: Store, open_run: Open) -> TakenOver:
        """A beginning from the model.

        Raises:
            UserError: there is no such model, it does not fit, or it has seen the same people.
        """
        run = open_run(Path(self.address))
        _check_frame(self, store, run)
        return TakenOver(self, recipe, store, run)


def _check_frame(config: Config, store: Store, run: FinishedRun) -> None:
    """Refuses a cohort that was ingested otherwise than the model's, whose brains lie elsewhere or are of another brightness.

    Raises:
        UserError: with the command that ingests it so.
    """
    known = (run.provenance or {}).get("config", {}).get(pretrained.PREPARED, {})
    known = known and {**_unprepared(), **known}
    do = f"ingest it with {_ingest(config, run.geometry, known)}"
    for key, wanted in known.items():
        settings = store.settings.get(key)
        kind = settings.get("kind") if isinstance(settings, Mapping) else _unprepared().get(key)
        if kind != wanted:
            raise UserError(str(store.path), f"was ingested with --{key} {kind}", f"{wanted}, as the cohort of {config.address}", do)
    if known.get("registration", "none") == "none":
        return
    here, there = middle(store.records[0].affine, store.records[0].shape), run.geometry.centre
    if max(abs(a - b) for a, b in zip(here, there, strict=True)) > NEAR:
        found = f"has the middle of its grid at {_mm(here)} of its template"
        raise UserError(str(store.path), found, f"{_mm(there)}, as the cohort of {config.address}", do)


def _ingest(config: Config, geometry: Geometry, known: Mapping[str, str]) -> str:
    shape = ",".join(str(edge) for edge in geometry.shape)
    words = [f"volgen ingest SOURCE STORE --shape {shape} --voxel-size {geometry.voxel_size[0]:g}"]
    for key, kind in known.items():
        words += [f"--{key} {kind}"] if kind != _unprepared().get(key) else []
        if key == "registration" and kind != "none":
            words += [f"--registration.template {config.address} --centre grid"]
    return " ".join(words)


def _unprepared() -> dict[str, str]:
    return {key: settings["kind"] for key, settings in pretrained.UNPREPARED.items()}


def _mm(place: Sequence[float]) -> str:
    return ", ".join(f"{edge:g}" for edge in place) + " mm"
