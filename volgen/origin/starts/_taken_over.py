"""What beginnings from a finished run share: its experts, or some of them, and what was fitted are taken over.

Under ``privacy.kind: dp_sgd`` all of that costs nothing: it is a function of people who are not in the private cohort.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import PositiveFloat, model_validator
from safetensors.torch import load_file
from torch import Tensor

from volgen.core import manifest
from volgen.core.config import MAY_CHANGE
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.files import check_digest, sha256
from volgen.core.limits import MANIFEST_BYTES
from volgen.core.progress import say
from volgen.core.run_files import ENSEMBLE, MANIFEST, WEIGHTS, of_expert
from volgen.core.span import owner
from volgen.data.store import Store
from volgen.experts.ensemble import ExpertRecord
from volgen.experts.ensemble import check as check_weights
from volgen.experts.plan import Phase
from volgen.images.geometry import Geometry
from volgen.origin import people
from volgen.origin.start import Facts, FinishedRun, Fit, Kept, Recipe

DIGITS = 1e-3


class TakenOverConfig(BaseConfig, ABC):
    """Each expert starts from the averaged weights of the one of a finished run that owns most of its noise levels."""

    kind: str
    sigma: tuple[PositiveFloat, PositiveFloat] | None = None
    """[low, high]: experts whose noise levels lie in it are trained, the others are those of the public run, unchanged. All if None."""
    shared_ids: bool = False
    """Whether a patient id that both cohorts use belongs to two people (every data set has a sub-01); otherwise it is refused."""
    stores: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """Where cohorts of the public run, and of runs that it began from, are now, if not where manifests say; known by fingerprint."""
    not_compared: Annotated[bool, MAY_CHANGE] = False
    """Whether a private run may begin where such a cohort cannot be read, so that nobody can look for people who are in both."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.sigma and self.sigma[0] > self.sigma[1]:
            raise ValueError(f"sigma {list(self.sigma)} is empty: its low end is above its high end")
        return self

    @property
    def warm(self) -> bool:
        """Whether networks begin from trained weights: they do, from those of the public run."""
        return True

    @property
    def brings_fit(self) -> bool:
        """Whether what is fitted comes with it: it does, it was fitted to the public cohort."""
        return True

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the public run is, as it is opened."""

    @property
    @abstractmethod
    def where(self) -> str:
        """What messages about the public run begin with."""

    @property
    @abstractmethod
    def places(self) -> list[str]:
        """Where the public run is on this machine."""

    @property
    @abstractmethod
    def same_model(self) -> str:
        """How to configure the same model."""

    @property
    @abstractmethod
    def same_frame(self) -> str:
        """How to bring a cohort to the same voxels."""

    def check(self, recipe: Recipe) -> None:
        """Experts start from those of the public run, and some are trained.

        Raises:
            ValueError: they would start from each other, ``sigma`` cuts through one, or nothing would be trained.
        """
        if recipe.experts.warm_start != "none" or recipe.experts.shared_steps:
            raise ValueError(
                f"start.kind is '{self.kind}', so experts start from those of that run: "
                "set experts.warm_start to none and shared_steps to 0"
            )
        try:
            trained = recipe.trained()
        except ValueError as error:
            raise ValueError(f"start: {error}") from None
        if not any(phase.points for phase in trained):
            raise ValueError(f"start.sigma {list(self.sigma or ())} holds the noise levels of no expert, so nothing would be trained")

    def keeps(self, points: Sequence[float]) -> bool:
        """Whether a network of these noise levels is taken over as it is; one of none is, because all experts were trained behind it.

        Raises:
            ValueError: some of them lie in the range and some do not.
        """
        if self.sigma is None or not points:
            return not points
        inside = [self.sigma[0] <= point <= self.sigma[1] for point in points]
        if any(inside) and not all(inside):
            found = f"sigma {list(self.sigma)} cuts through an expert, which owns {min(points):.4g} to {max(points):.4g}"
            raise ValueError(f"{found}: move the range, or choose experts.points so that an expert begins there")
        return not any(inside)

    def told(self, recipe: Recipe) -> str:
        """A few words on the public run, for a table of sizes."""
        return f"a public run (adapter {recipe.adapter.kind}; {len(recipe.trained())} of {recipe.experts.count} trained)"

    def assumptions(self) -> list[str]:
        """Nobody is known to the public run."""
        return ["people: in one cohort only (training compares this cohort's ids with those of the public runs' stores)"]

    def caveat(self) -> str:
        """The public run has people of its own."""
        return "; and the person is not in the cohort of the run that it began from, or of one before that: no budget here counts those"


class TakenOver:
    """A :class:`~volgen.origin.start.Start` from a public run.

    Args:
        config: which run, and what of it.
        recipe: configuration of the run that begins.
        store: the cohort that it is trained on.
        run: the public run.

    Raises:
        UserError: the public run does not fit, or has seen the same people.
    """

    def __init__(self, config: TakenOverConfig, recipe: Recipe, store: Store, run: FinishedRun) -> None:
        self._config, self._recipe, self._run = config, recipe, run
        directory = run.directory
        if len(recipe.variants) == len(run.recipe.variants) == 1:
            self._check_model(recipe, run.recipe)  # before noise levels are compared
        experts = [phase for phase in recipe.phases() if phase.points]
        self._experts = {phase.name: self._owner(phase) for phase in experts}
        theirs = {phase.index: phase for phase in run.recipe.phases()}
        for phase in experts:
            self._check_model(recipe.of(phase), run.recipe.of(theirs[self._experts[phase.name].index]))
        for variant in recipe.variants:
            with torch.device("meta"):
                variant.build().network(recipe.phases()[-1])
        digest, seen = _seen(run)
        public: Facts = {"run": run.recipe.name, "manifest": digest, "fingerprint": run.fingerprint}
        said, known = people.compare(recipe, people.cohorts(directory, seen, run.recipe.data.store), store, public)
        kept = [phase.name for phase in experts if config.keeps(phase.points)]
        untold = bool(recipe.conditions) and not run.recipe.conditions
        if untold and recipe.adapter.needs_trained:
            found = f"was told nothing of people, and adapter.kind '{recipe.adapter.kind}' changes weights that have been trained"
            raise UserError(config.where, found, "networks that learn what `conditions` tell them", "set adapter.kind to all")
        if kept and untold:
            found = f"was told nothing of people, and `start.sigma` leaves {len(kept)} of its experts as they are"
            raise UserError(config.where, found, "experts that learn what `conditions` tell them", "leave `start.sigma` out")
        self._inputs: Facts = {"public": public, people.COHORTS: [cohort.recorded() for cohort in known]}
        self._assumed: Facts = {
            "public": {
                **public,  # not the cohorts: a ledger is released
                "taken_over": "the fitted preconditioner, and the weights that training begins from",
                "unchanged_experts": sorted(kept, key=int),
                "people": said,
                "its_privacy": run.privacy,
            }
        }

    @property
    def inputs(self) -> Facts:
        """The public run, and all cohorts that it has seen."""
        return self._inputs

    @property
    def assumed(self) -> Facts:
        """The public run, and that it knows nobody of the cohort."""
        return self._assumed

    def check_same(self, directory: Path) -> None:
        """Refuses another public run than ``directory`` began from."""
        if (directory / MANIFEST).exists():
            before = manifest.read(directory, "the manifest of a run", limit=MANIFEST_BYTES).get("inputs", {}).get("public")
            if before != self.inputs["public"]:
                where, do = self._config.where, "give the new run another `name`"
                raise UserError(where, f"is not the run that {directory} began from", "the same one", do)

    def check(self, geometry: Geometry) -> None:
        """Refuses another frame than the public run's."""
        public, where = self._run.geometry, self._config.where
        if any(abs(a - b) > DIGITS for a, b in zip(geometry.voxel_size, public.voxel_size, strict=True)):
            found = f"has voxels of {list(public.voxel_size)} mm, the cohort of {list(geometry.voxel_size)} mm"
            raise UserError(where, found, "one grid", self._config.same_frame)
        if geometry.skull_stripped != public.skull_stripped:
            shows = {True: "brains (skull_stripped)", False: "whole heads"}
            found = f"shows {shows[public.skull_stripped]}, this cohort {shows[geometry.skull_stripped]}"
            raise UserError(where, found, "cohorts that were prepared alike", "strip both or none")

    def fit(self) -> Fit:
        """What the public run fitted."""
        say(f"The '{self._recipe.preconditioner.kind}' preconditioner is that of the public run '{self._run.recipe.name}'.")
        return self._run.preconditioner(torch.device("cpu")), self._run.assembly()

    def weights(self, phase: Phase) -> dict[str, Tensor]:
        """Those of the public expert that owns the phase's noise levels."""
        return load_file(self._checked(self._experts[phase.name]))

    def kept(self, phase: Phase) -> Kept | None:
        """The public expert, if its noise levels are not trained; or the network that all experts were trained behind."""
        if not self._config.keeps(phase.points):
            return None
        if not phase.points:
            return self._first(phase)
        record = self._experts[phase.name]
        return Kept(self._checked(record), record.parameters, record.sha256)

    def _first(self, phase: Phase) -> Kept:
        """A network of the public run that owns no noise levels."""
        name = of_expert(phase.name, WEIGHTS)
        path, digest = self._run.directory / name, self._run.ensemble.files.get(name, "")
        check_digest(path, digest, ENSEMBLE, what=f"the {phase.name} of the public run", do="restore it from a copy")
        with torch.device("meta"):
            network = self._recipe.build().released(phase)
        return Kept(path, sum(parameter.numel() for parameter in network.parameters()), digest)

    def _checked(self, record: ExpertRecord) -> Path:
        return check_weights(self._run.directory, record)

    def _check_model(self, mine: Recipe, public: Recipe) -> None:
        """Refuses another model for a network than that of the public expert."""
        pairs = {
            name: (getattr(mine, name).model_dump(), getattr(public, name).model_dump())
            for name in ("network", "preconditioner", "assembly", "view")
        }
        if mine.build().needs or public.build().needs:
            pairs["method"] = (mine.method.model_dump(), public.method.model_dump())
        if public.conditions:  # networks that were told nothing can learn to be told
            told = [[condition.model_dump() for condition in recipe.conditions] for recipe in (mine, public)]
            pairs["recipe"] = ({"conditions": told[0]}, {"conditions": told[1]})
        ours, theirs = (recipe.data.model_dump(mode="json", include={"shape", "box"}) for recipe in (mine, public))
        pairs["data"] = (ours, theirs)
        pairs[""] = ({"level": mine.level}, {"level": public.level})
        differing = [
            f"{section}.{key}".lstrip(".") + f" is {one.get(key)} here and {other.get(key)} there"
            for section, (one, other) in pairs.items()
            for key in sorted({*one, *other})
            if one.get(key) != other.get(key)
        ]
        if differing:
            raise UserError(self._config.where, "; ".join(differing), "the same model", self._config.same_model)

    def _owner(self, phase: Phase) -> ExpertRecord:
        """The public expert that owns most noise levels of a phase, the higher one of two that own equally many.

        Raises:
            UserError: there is none, or the phase is not trained and has more than one.
        """
        bank, where = self._run.ensemble, self._config.where
        low, high = phase.points[0], phase.points[-1]
        if low < bank.sigma_min * (1 - 1e-6) or high > bank.sigma_max * (1 + 1e-6):
            found = f"knows noise levels {bank.sigma_min:.4g} to {bank.sigma_max:.4g}, {phase.label} owns {low:.4g} to {high:.4g}"
            raise UserError(where, found, "a grid inside of the public run's", "choose sigma_min and sigma_max of `schedule` accordingly")
        owned = Counter(owner(bank.spans, min(point, bank.sigma_max)) for point in phase.points)
        if len(owned) > 1 and self._config.keeps(phase.points):
            found = f"shares the noise levels of {phase.label} ({low:.4g} to {high:.4g}) between its experts {min(owned)} to {max(owned)}"
            do = "give `start.sigma` the noise levels of this one too"
            raise UserError(where, found, "one to be taken over untrained", do)
        return bank.experts[max(owned, key=lambda expert: (owned[expert], expert))]


def _seen(run: FinishedRun) -> tuple[str | None, Facts | None]:
    """SHA-256 of a run's manifest and what it says of its inputs; the latter is None for a released run, whose manifest knows no cohort."""
    if run.provenance is None:
        return None, None
    return sha256(run.directory / MANIFEST), None if run.cohort is None else run.provenance["inputs"]
