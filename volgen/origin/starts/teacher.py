"""Experts of a student begin from those of the run that teaches them, and what that run fitted is taken over with them.

A student learns from nothing but volumes that its teacher drew. So whatever the teacher promises the people whom it was trained on, the
student keeps: it is post-processing (Dwork & Roth 2014, proposition 2.1). Training volumes would be another matter, and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from volgen.core import manifest, pretrained
from volgen.core.config import MAY_CHANGE
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.limits import MANIFEST_BYTES
from volgen.core.run_files import MANIFEST
from volgen.core.span import owner
from volgen.data.store import Store
from volgen.experts.ensemble import ExpertRecord
from volgen.experts.ensemble import check as check_weights
from volgen.experts.plan import Phase
from volgen.images.geometry import Geometry
from volgen.origin.start import Facts, FinishedRun, Fit, Open, Recipe

DIGITS = 1e-3


class Config(BaseConfig):
    """Each expert starts from the teacher's that owns its highest noise level; the preconditioner is the teacher's (``volgen distil``)."""

    kind: Literal["teacher"] = "teacher"
    run: Annotated[str, MAY_CHANGE] = Field(min_length=1)
    """Directory of the teacher, which drew the volumes of the store; or ``pretrained:NAME``, for a model of the package."""

    @property
    def warm(self) -> bool:
        """Whether networks begin from trained weights: they do, from the teacher's."""
        return True

    @property
    def brings_fit(self) -> bool:
        """Whether what is fitted comes with it: it does."""
        return True

    @property
    def places(self) -> list[str]:
        """The teacher's directory, where it is not of the package."""
        return [] if pretrained.packaged(self.run) else [self.run]

    def check(self, recipe: Recipe) -> None:
        """Experts start from the teacher's, and from nothing else.

        Raises:
            ValueError: they would start from each other.
        """
        if recipe.experts.warm_start != "none" or recipe.experts.shared_steps:
            raise ValueError("start.kind is 'teacher', so experts start from those of that run: set experts.warm_start to none")

    def keeps(self, points: Sequence[float]) -> bool:
        """Whether an expert is taken over as it is: none is."""
        return False

    def told(self, recipe: Recipe) -> str:
        """A few words on the teacher, for a table of sizes."""
        return "the teacher's expert of its highest noise level"

    def assumptions(self) -> list[str]:
        """Nothing is assumed."""
        return []

    def caveat(self) -> str:
        """What is promised is what the teacher promises."""
        return ""

    def build(self, recipe: Recipe, store: Store, open_run: Open) -> Teacher:
        """A beginning from the teacher.

        Raises:
            UserError: it is damaged, does not fit, or did not draw what the store holds.
        """
        return Teacher(self, recipe, store, open_run(Path(self.run)))


class Teacher:
    """A :class:`~volgen.origin.start.Start` from a teacher.

    Args:
        config: which run.
        recipe: configuration of the student.
        store: what it is trained on.
        run: the teacher.

    Raises:
        UserError: the teacher does not fit, or did not draw what the store holds.
    """

    def __init__(self, config: Config, recipe: Recipe, store: Store, run: FinishedRun) -> None:
        self._where, self._run = f"start.run {config.run}", run
        if store.settings.get("run") != run.fingerprint:
            found = f"was not drawn by the teacher, {config.run}"
            do = "a student learns from its teacher's own volumes (volgen distil draws them); nothing accounts for training volumes"
            raise UserError(str(store.path), found, "volumes that the teacher drew", do)
        mine, theirs = (each.preconditioner.model_dump() for each in (recipe, run.recipe))
        if mine != theirs:
            raise UserError(self._where, "has another preconditioner", "the student's", "leave this section as volgen distil writes it")
        self._recipe, self._guided = recipe, store.settings.get("guidance") is not None
        self._owners = {phase.name: self._owner(phase) for phase in recipe.phases()}

    @property
    def inputs(self) -> Facts:
        """What a run records of its inputs: the teacher."""
        return {"teacher": {"run": self._run.recipe.name, "fingerprint": self._run.fingerprint}}

    @property
    def assumed(self) -> Facts:
        """What of the student follows from people, and what is promised to these."""
        return {"made_of": {**self.inputs["teacher"], "its_privacy": self._run.privacy}}

    def check(self, geometry: Geometry) -> None:
        """Refuses another frame than the teacher's."""
        theirs = self._run.geometry
        if not geometry.alike(theirs) or any(abs(a - b) > DIGITS for a, b in zip(geometry.voxel_size, theirs.voxel_size, strict=True)):
            raise UserError(self._where, "has volumes of other voxels than the store", "one grid", "draw its trajectories anew")

    def check_same(self, directory: Path) -> None:
        """Refuses another teacher than ``directory`` began from."""
        if not (directory / MANIFEST).exists():
            return
        before = manifest.read(directory, "the manifest of a run", limit=MANIFEST_BYTES).get("inputs", {}).get("teacher")
        if before != self.inputs["teacher"]:
            raise UserError(self._where, "is not the teacher this run began from", "the same one", "give the run another `name`")

    def fit(self) -> Fit:
        """What the teacher fitted."""
        return self._run.preconditioner(torch.device("cpu")), self._run.assembly()

    def weights(self, phase: Phase) -> dict[str, Tensor]:
        """Those of the teacher's expert that owns the phase's highest noise level.

        Where trajectories are guided away from what is expected without a network, D' = E + w q F is what the teacher's network makes with
        w times its last layer, which a student begins with: its first jump is an Euler step of the guided denoiser, but for an expert of
        patches, whose own E is of pieces and the guidance's of the whole: there it is near to one.
        """
        weights = load_file(check_weights(self._run.directory, self._owners[phase.name]))
        strength = self._run.recipe.guidance.build().enlarges(phase.points[-1]) if self._guided else 1.0
        last = getattr(self._recipe.of(phase).network, "last", None)
        if strength == 1.0 or last is None:
            return weights
        return {name: weight * strength if last in name.split(".") else weight for name, weight in weights.items()}

    def kept(self, phase: Phase) -> None:
        """Everything is trained."""
        return

    def _owner(self, phase: Phase) -> ExpertRecord:
        bank = self._run.ensemble
        top = phase.points[-1]
        if top > bank.sigma_max * (1 + 1e-6):
            raise UserError(
                self._where, f"knows noise levels up to {bank.sigma_max:.4g}, {phase.label} begins at {top:.4g}", "the teacher's grid"
            )
        return bank.experts[owner(bank.spans, min(top, bank.sigma_max))]
