"""What a training begins from: nothing, or a finished run of a public cohort, whose fit and experts it takes over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from volgen.commands.train import people as start_people
from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.core.files import atomic_path, sha256
from volgen.core.folder import LOCK
from volgen.core.limits import MANIFEST_BYTES
from volgen.core.lock import Lock
from volgen.core.progress import say
from volgen.core.run_files import CONFIG, MANIFEST
from volgen.core.span import owner
from volgen.data.store import Store
from volgen.experts.ensemble import ExpertRecord
from volgen.experts.ensemble import check as check_weights
from volgen.experts.plan import Phase
from volgen.images.geometry import Geometry
from volgen.models.assembly import Assembly
from volgen.models.denoiser import Preconditioner
from volgen.recipe import Recipe
from volgen.runs.paths import Paths
from volgen.runs.record import PhaseRecord
from volgen.runs.trained import RELEASE, open_run

Facts = dict[str, Any]
Fit = tuple[Preconditioner, Assembly]
DIGITS = 1e-3


class Start(Protocol):
    """What a run begins from."""

    inputs: Facts
    """For the manifest: fingerprints of what is taken over."""
    assumed: Facts
    """For the ledger: what is taken over, and what has to be true for it to cost nothing."""

    def check(self, geometry: Geometry) -> None:
        """Refuses another frame than the public run's."""
        ...

    def check_same(self, directory: Path) -> None:
        """Refuses another public run than ``directory`` began from."""
        ...

    def fit(self) -> Fit | None:
        """What was fitted elsewhere; None if it is to be fitted to the cohort."""
        ...

    def weights(self, phase: Phase) -> dict[str, Tensor] | None:
        """What a network starts from; None for random weights."""
        ...

    def keep(self) -> None:
        """Marks the experts that are taken over as finished."""
        ...


def start(recipe: Recipe, store: Store) -> Start:
    """The one that a recipe asks for.

    Raises:
        UserError: the public run is damaged, does not fit, or has seen the same people.
    """
    return _Public(recipe, store) if recipe.start.public else _Scratch()


class _Scratch:
    inputs: Facts = {}  # noqa: RUF012 (nobody changes it)
    assumed: Facts = {}  # noqa: RUF012

    def check(self, geometry: Geometry) -> None:
        pass

    def check_same(self, directory: Path) -> None:
        pass

    def fit(self) -> None:
        return None

    def weights(self, phase: Phase) -> None:
        return None

    def keep(self) -> None:
        pass


class _Public:
    def __init__(self, recipe: Recipe, store: Store) -> None:
        self._recipe = recipe
        directory = Path(recipe.start.run)
        self._run = run = open_run(directory)
        self._check_model()
        with torch.device("meta"):
            recipe.build().network(recipe.phases()[-1])
        self._experts = {phase.name: self._owner(phase) for phase in recipe.phases()}
        digest, seen = _seen(directory)
        public: Facts = {"run": run.recipe.name, "manifest": digest, "fingerprint": run.fingerprint}
        people, known = start_people.compare(recipe, start_people.cohorts(directory, seen, run.recipe.data.store), store, public)
        kept = [phase.name for phase in recipe.phases() if recipe.start.keeps(phase.points)]
        self.inputs = {"public": public, start_people.COHORTS: [cohort.recorded() for cohort in known]}
        self.assumed = {
            "public": {
                **public,  # not the cohorts: a ledger is released
                "taken_over": "the fitted preconditioner, and the weights that training begins from",
                "unchanged_experts": sorted(kept, key=int),
                "people": people,
                "its_privacy": run.privacy,
            }
        }

    def check_same(self, directory: Path) -> None:
        if (directory / MANIFEST).exists():
            before = manifest.read(directory, "the manifest of a run", limit=MANIFEST_BYTES).get("inputs", {}).get("public")
            if before != self.inputs["public"]:
                where, do = f"start.run {self._run.directory}", "give the new run another `name`"
                raise UserError(where, f"is not the run that {directory} began from", "the same one", do)

    def check(self, geometry: Geometry) -> None:
        public, where = self._run.geometry, f"start.run {self._run.directory}"
        if any(abs(a - b) > DIGITS for a, b in zip(geometry.voxel_size, public.voxel_size, strict=True)):
            found = f"has voxels of {list(public.voxel_size)} mm, the cohort of {list(geometry.voxel_size)} mm"
            raise UserError(where, found, "one grid", "ingest the cohort with the public run's --voxel-size")
        if geometry.skull_stripped != public.skull_stripped:
            shows = {True: "brains (skull_stripped)", False: "whole heads"}
            found = f"shows {shows[public.skull_stripped]}, this cohort {shows[geometry.skull_stripped]}"
            raise UserError(where, found, "cohorts that were prepared alike", "strip both or none")

    def fit(self) -> Fit:
        say(f"The '{self._recipe.preconditioner.kind}' preconditioner is that of the public run '{self._run.recipe.name}'.")
        return self._run.preconditioner(torch.device("cpu")), self._run.assembly()

    def weights(self, phase: Phase) -> dict[str, Tensor]:
        return load_file(self._checked(self._experts[phase.name]))

    def keep(self) -> None:
        paths = Paths(self._recipe.directory)
        for phase in self._recipe.phases():
            folder, record = paths.phase(phase.name), self._experts[phase.name]
            if not self._recipe.start.keeps(phase.points) or PhaseRecord.read(folder):
                continue
            with Lock.wait(folder / LOCK), atomic_path(paths.weights(phase.name)) as temporary:
                shutil.copyfile(self._checked(record), temporary)
            PhaseRecord(0, 0, None, record.parameters, record.sha256).write(folder)
            say(f"{phase.label} (sigma {phase.points[0]:.3g} to {phase.points[-1]:.3g}) is that of the public run, unchanged.")

    def _checked(self, record: ExpertRecord) -> Path:
        return check_weights(self._run.directory, record)

    def _check_model(self) -> None:
        mine, public = self._recipe, self._run.recipe
        pairs = {
            name: (getattr(mine, name).model_dump(), getattr(public, name).model_dump())
            for name in ("network", "preconditioner", "assembly")
        }
        pairs["data"] = ({"shape": list(mine.data.shape)}, {"shape": list(public.data.shape)})
        differing = [
            f"{section}.{key} is {one.get(key)} here and {other.get(key)} there"
            for section, (one, other) in pairs.items()
            for key in sorted({*one, *other})
            if one.get(key) != other.get(key)
        ]
        if differing:
            do = f"copy these sections from the public run's {CONFIG}"
            raise UserError(f"start.run {self._run.directory}", "; ".join(differing), "the same model", do)

    def _owner(self, phase: Phase) -> ExpertRecord:
        """The public expert that owns all noise levels of a phase."""
        bank = self._run.ensemble
        where, low, high = f"start.run {self._run.directory}", phase.points[0], phase.points[-1]
        if low < bank.sigma_min * (1 - 1e-6) or high > bank.sigma_max * (1 + 1e-6):
            found = f"knows noise levels {bank.sigma_min:.4g} to {bank.sigma_max:.4g}, {phase.label} owns {low:.4g} to {high:.4g}"
            raise UserError(where, found, "a grid inside of the public run's", "choose sigma_min and sigma_max of `schedule` accordingly")
        owners = sorted({owner(bank.spans, min(point, bank.sigma_max)) for point in phase.points})
        if len(owners) > 1:
            found = f"shares the noise levels of {phase.label} ({low:.4g} to {high:.4g}) between its experts {owners[0]} to {owners[-1]}"
            raise UserError(where, found, "one to start from", "choose `experts` so that none owns levels of two public experts")
        return bank.experts[owners[0]]


def _seen(run: Path) -> tuple[str | None, Facts | None]:
    """SHA-256 of a run's manifest and what it says of its inputs; the latter is None for a released run, whose manifest knows no cohort."""
    if not (run / MANIFEST).exists():
        return None, None
    content = manifest.read(run, "the manifest of a finished run", limit=MANIFEST_BYTES)
    inputs = content.get("inputs")
    if not isinstance(inputs, dict):
        raise UserError(str(run / MANIFEST), "has another form", "the manifest of a finished run")
    return sha256(run / MANIFEST), None if content.get("stage") == RELEASE else inputs
