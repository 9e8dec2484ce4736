"""What a finished run directory offers to later stages: its recipe, its geometry and its denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from volgen.core.errors import UserError
from volgen.core.files import fingerprint, read_json, sha256
from volgen.core.geometry import NAME as GEOMETRY
from volgen.core.geometry import Geometry
from volgen.data import derivative
from volgen.experts import ensemble as ensembles
from volgen.experts.bank import ExpertBank
from volgen.models.assembly import Assembly
from volgen.models.denoiser import PreconditionedDenoiser, Preconditioner
from volgen.parallel.precision import InPrecision
from volgen.recipe import Recipe, load
from volgen.stages._leftovers import tidy
from volgen.stages._preconditioner_file import ASSEMBLY, PRECONDITIONER, check_unchanged, restore, restore_assembly

AGAIN = "restore the file from a copy, or train the run again"


@dataclass(frozen=True)
class TrainedRun:
    """A run directory that ``volgen train`` finished.

    Attributes:
        directory: where it is.
        recipe: its resolved configuration.
        ensemble: who owns which noise level.
        geometry: frame and intensity units of the volumes.
        privacy: one sentence.
        fingerprint: SHA-256 over all that decides what a sample looks like: network, preconditioner, weights, geometry.
    """

    directory: Path
    recipe: Recipe
    ensemble: ensembles.Ensemble
    geometry: Geometry
    privacy: str
    fingerprint: str

    @classmethod
    def read(cls, directory: Path) -> TrainedRun:
        """Reads everything but the weights.

        Raises:
            UserError: a file is missing or damaged, or the files do not belong together.
        """
        if not directory.is_dir():
            raise UserError(str(directory), "there is no such directory", "a run that `volgen train` made")
        recipe = load(directory / "config.yaml")
        ensemble = ensembles.read(directory / ensembles.NAME)
        tidy(directory)
        geometry = Geometry.read(directory)
        if geometry.shape != tuple(recipe.data.shape):
            expected = f"{list(recipe.data.shape)}, as config.yaml says"
            raise UserError(str(directory / GEOMETRY), f"has shape {list(geometry.shape)}", expected)
        ledger = read_json(directory / "privacy_ledger.json", "the privacy ledger of a trained run", derivative.is_ledger)
        if not (directory / PRECONDITIONER).is_file():
            raise UserError(str(directory / PRECONDITIONER), "there is no such file", "the preconditioner of a trained run")
        # The weights are in it through their checksums in ensemble.json.
        names = [ensembles.NAME, GEOMETRY, PRECONDITIONER, *([ASSEMBLY] if (directory / ASSEMBLY).is_file() else [])]
        files = {name: sha256(directory / name) for name in names}
        # The default assembly goes without saying: runs from before there were others keep their fingerprints. So do options: those that
        # config.yaml names, which are all that there were when the run was trained; what has come since is at its default.
        decisive = ("network", "preconditioner", *(() if recipe.assembly.whole else ("assembly",)))
        model = {name: getattr(recipe, name).model_dump(mode="json", exclude_unset=True) for name in decisive}
        identity = fingerprint({"model": model, "precision": recipe.engine.precision, "files": files})
        return cls(directory, recipe, ensemble, geometry, derivative.privacy_statement(ledger), identity)

    def preconditioner(self, device: torch.device) -> Preconditioner:
        """The run's preconditioner on a device.

        Raises:
            UserError: it cannot be restored, is not finite, is of volumes of another shape, or was changed.
        """
        config = self.recipe.preconditioner
        restored = restore(config, self.directory / PRECONDITIONER, AGAIN)
        self._check(restored)
        check_unchanged(self.directory / PRECONDITIONER, AGAIN)
        return restored.to(device)

    def assembly(self) -> Assembly:
        """How the run's volumes are put together.

        Raises:
            UserError: what it draws from cannot be restored, is not finite, or was changed.
        """
        restored = restore_assembly(self.recipe.assembly, self.directory, AGAIN)
        for name, tensor in restored.state().items():
            if not tensor.isfinite().all():
                raise UserError(str(self.directory / ASSEMBLY), f"'{name}' holds values that are not finite", "finite numbers only", AGAIN)
        return restored

    def _check(self, preconditioner: Preconditioner) -> None:
        """Refuses statistics that are not finite or not of this run's volumes."""
        where = str(self.directory / PRECONDITIONER)
        for name, tensor in preconditioner.state().items():
            if not tensor.isfinite().all():
                raise UserError(where, f"'{name}' holds values that are not finite", "finite numbers only", AGAIN)
        # On the meta device only shapes and types are computed: whatever a preconditioner consists of, it must map a volume to a volume.
        meta = torch.device("meta")
        volume, sigma = torch.empty(1, 1, *self.recipe.piece, device=meta), torch.ones(1, device=meta)
        kind = (volume.shape, volume.dtype)
        try:
            moved = preconditioner.to(meta)
            made = [moved.denoise(lambda inputs, _: inputs[:, :1], volume, sigma), moved.start(volume, 1.0)]
            found = next((f"makes {tensor.dtype}{list(tensor.shape)}" for tensor in made if (tensor.shape, tensor.dtype) != kind), "")
        except (RuntimeError, ValueError, IndexError) as error:
            found = f"does not fit ({' '.join(str(error).split())[:200]})"
        if found:
            raise UserError(where, found, f"float32 statistics of volumes of shape {list(self.recipe.piece)}", AGAIN)

    def bank(self, preconditioner: Preconditioner, device: torch.device, grid: Sequence[float], capacity: int = 2) -> ExpertBank:
        """The run's denoiser.

        Args:
            preconditioner: from :meth:`preconditioner`.
            device: where it computes.
            grid: noise levels that will be asked for.
            capacity: experts in memory at once: one that works and one that arrives.
        """

        def wrap(module: nn.Module) -> PreconditionedDenoiser:
            return PreconditionedDenoiser(InPrecision(module, self.recipe.engine), preconditioner)

        def build() -> nn.Module:
            return self.recipe.build_network()

        # Under autocast matrices become bf16 each time they are used; once will do.
        matrices = torch.bfloat16 if self.recipe.engine.precision == "bf16" else None
        return ExpertBank(self.ensemble, self.directory, build, wrap, device, capacity=capacity, grid=grid, matrices=matrices)
