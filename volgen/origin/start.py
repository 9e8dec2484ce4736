"""What a training begins from: nothing, or networks that were trained before, and what was fitted for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from volgen.data.store import Store
from volgen.experts.ensemble import Ensemble
from volgen.experts.plan import Phase
from volgen.images.geometry import Geometry
from volgen.models.assembly import Assembly
from volgen.models.denoiser import Preconditioner
from volgen.privacy.plan import Run

Facts = dict[str, Any]
Fit = tuple[Preconditioner, Assembly]


@dataclass(frozen=True)
class Kept:
    """A trained network that is taken over as it is.

    Attributes:
        path: where its weights are.
        parameters: trainable ones.
        sha256: SHA-256 of that file.
    """

    path: Path
    parameters: int
    sha256: str


class Recipe(Run, Protocol):
    """What a start asks of the configuration of a run (:mod:`volgen.recipe`, which is above this package)."""

    @property
    def name(self) -> str:
        """Name of the run."""
        ...

    @property
    def privacy(self) -> Any:
        """A plan of privacy."""
        ...

    @property
    def guidance(self) -> Any:
        """Default guidance of its samples."""
        ...

    def of(self, phase: Phase) -> Self:
        """The configuration of the model of one network."""
        ...

    def phases(self) -> list[Phase]:
        """Every network of the run, trained or taken over."""
        ...


class FinishedRun(Protocol):
    """A run that may be begun from (:class:`volgen.runs.trained.TrainedRun`)."""

    @property
    def directory(self) -> Path:
        """The directory that it is in."""
        ...

    @property
    def recipe(self) -> Recipe:
        """The run's configuration."""
        ...

    @property
    def ensemble(self) -> Ensemble:
        """The run's experts."""
        ...

    @property
    def geometry(self) -> Geometry:
        """The frame of its volumes."""
        ...

    @property
    def privacy(self) -> str:
        """What it promises, as a sentence."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides what it draws."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any] | None:
        """Content of its manifest; None where that was lost."""
        ...

    @property
    def cohort(self) -> str | None:
        """Fingerprint of the cohort that it was trained on; None for a run that does not know it, as a released one."""
        ...

    def preconditioner(self, device: torch.device) -> Preconditioner:
        """What it fitted to its cohort before training, on a device."""
        ...

    def assembly(self) -> Assembly:
        """How its volumes are put together."""
        ...


Open = Callable[[Path], FinishedRun]
"""Opens a finished run, or raises UserError."""


class StartConfig(Protocol):
    """What every file in ``volgen/origin/starts`` offers as ``Config``."""

    kind: str

    @property
    def warm(self) -> bool:
        """Whether networks begin from trained weights, which are looked at before their first step."""
        ...

    @property
    def brings_fit(self) -> bool:
        """Whether what is fitted (preconditioner and assembly) comes with it, and knows nobody of the cohort."""
        ...

    @property
    def places(self) -> list[str]:
        """Places on this machine that the configuration names, beside the store."""
        ...

    def check(self, recipe: Recipe) -> None:
        """Makes sure that the rest of a configuration can begin like this.

        Raises:
            ValueError: it cannot.
        """
        ...

    def keeps(self, points: Sequence[float]) -> bool:
        """Whether an expert of these noise levels is taken over as it is.

        Raises:
            ValueError: some of them are, and some are not.
        """
        ...

    def told(self, recipe: Recipe) -> str:
        """What each network starts from, for people."""
        ...

    def assumptions(self) -> list[str]:
        """What planning assumes where nobody of the cohort may be known already, for people."""
        ...

    def caveat(self) -> str:
        """What a promise to a person outside of the cohort rests on; "" if on nothing more."""
        ...

    def build(self, recipe: Recipe, store: Store, open_run: Open) -> Start:
        """The start of a run, which has looked at what it begins from.

        Raises:
            UserError: that is damaged, does not fit, or has seen the same people.
        """
        ...


class Start(Protocol):
    """What one run begins from."""

    @property
    def inputs(self) -> Facts:
        """Fingerprints of what is taken over, for the manifest."""
        ...

    @property
    def assumed(self) -> Facts:
        """What is taken over, and what has to be true for it to cost nothing, for the ledger."""
        ...

    def check(self, geometry: Geometry) -> None:
        """Refuses another frame than that of what is taken over."""
        ...

    def check_same(self, directory: Path) -> None:
        """Refuses what ``directory`` did not begin from."""
        ...

    def fit(self) -> Fit | None:
        """What was fitted elsewhere; None if it is to be fitted to the cohort."""
        ...

    def weights(self, phase: Phase) -> dict[str, Tensor] | None:
        """What a network starts from; None for random weights."""
        ...

    def kept(self, phase: Phase) -> Kept | None:
        """The network that is taken over in place of this one; None if it is trained."""
        ...
