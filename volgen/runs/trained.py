"""What a finished run directory offers to later stages: its recipe, its geometry and its denoiser."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from volgen.core import ledger as ledgers
from volgen.core import manifest, pretrained
from volgen.core.errors import UserError
from volgen.core.files import check_digest, fingerprint, read_json
from volgen.core.limits import LEDGER_BYTES, MANIFEST_BYTES, SMALL_JSON_BYTES
from volgen.core.protocols import Denoiser, Shape3
from volgen.core.run_files import (
    ASSEMBLY,
    CHECKSUMS,
    CONFIG,
    ENSEMBLE,
    GEOMETRY,
    LEDGER,
    MANIFEST,
    PRECONDITIONER,
    TRAIN_AGAIN,
    WEIGHTS,
    of_expert,
)
from volgen.core.span import owner
from volgen.data import derivative
from volgen.experts import compact
from volgen.experts import ensemble as ensembles
from volgen.experts.bank import ExpertBank
from volgen.experts.plan import Phase
from volgen.images.geometry import Geometry
from volgen.models.assembly import Assembly
from volgen.models.corners import FittedCorners
from volgen.models.denoiser import Preconditioner
from volgen.models.model import sigma_of_means
from volgen.models.space import Domain
from volgen.recipe import Recipe, load
from volgen.runs.fitted import (
    HEADER,
    assembly_bytes,
    check_unchanged,
    preconditioner_bytes,
    restore,
    restore_assembly,
    tensor_bytes,
)  # fmt: skip
from volgen.runs.leftovers import tidy
from volgen.runs.paths import Paths
from volgen.sampling.climb import Climbing, climbs, never_rise

RELEASE = "release"
"""Stage of a manifest that `volgen release` wrote: it says nothing of whom the run was trained on."""
STAGES = ("train", RELEASE)
EDITABLE = (".md", ".png")
"""Cards and pictures, which people may change: nothing depends on them."""
DIGITS = 1e-6
"""Digits by which noise levels are compared: another processor may round otherwise."""
UNSEEN = 0.08
"""Noise in means over cubes of voxels, in the model's range, from which a descent may go to 0 at once: white matter varies by as much."""


@dataclass(frozen=True)
class TrainedRun:
    """A run directory that ``volgen train`` finished.

    Attributes:
        directory: where it is.
        recipe: its resolved configuration.
        ensemble: who owns which noise level.
        geometry: frame and intensity units of the volumes.
        ledger: content of its ``privacy_ledger.json``, as it is; :attr:`claim` is what of it counts.
        provenance: content of its ``manifest.json``; None where that was lost.
        fingerprint: SHA-256 over all that decides what a sample looks like: network, preconditioner, weights, geometry.
    """

    directory: Path
    recipe: Recipe
    ensemble: ensembles.Ensemble
    geometry: Geometry
    ledger: Mapping[str, Any]
    provenance: Mapping[str, Any] | None
    fingerprint: str

    @property
    def paths(self) -> Paths:
        """Where its networks lie."""
        return Paths(self.directory)

    @property
    def whole(self) -> Shape3:
        """Voxels along X, Y, Z of what its bank denoises, once it is put together: of a volume, or of what is made of one."""
        return self.recipe.grid

    @property
    def piece(self) -> Shape3:
        """Voxels along X, Y, Z of what its bank denoises at once: of a volume, or of a piece of one, whatever its networks see of that."""
        return self.recipe.assembly.piece(self.recipe.grid)  # type: ignore[no-any-return]

    @property
    def level(self) -> int:
        """How often its voxels were doubled since it was trained (:mod:`volgen.runs.coarser`)."""
        return 0

    @property
    def phases(self) -> list[Phase]:
        """Its experts, lowest noise first, as the bank has them."""
        return _experts(self.recipe)

    def model_of(self, phase: Phase) -> Recipe:
        """The recipe of one expert: as if all were made as this one is."""
        return self.recipe.of(phase)

    @property
    def privacy(self) -> str:
        """What it promises, as a sentence."""
        return derivative.privacy_statement(self.ledger)

    @property
    def claim(self) -> Mapping[str, Any]:
        """What its ledger claims, if that counts (:func:`volgen.core.ledger.checked`)."""
        return ledgers.checked(self.ledger)

    @property
    def cohort(self) -> str | None:
        """Fingerprint of the cohort that it was trained on; None for a run that does not know it, as a released one."""
        if self.provenance is None or self.provenance["stage"] == RELEASE:
            return None
        return str(self.provenance["inputs"]["fingerprint"])

    def verify(self, names: Collection[str] | None = None) -> None:
        """Makes sure of everything that :func:`open_run` leaves to its first use, and of every other file that the run's manifest lists.

        Args:
            names: files to look at beside the weights; all that the manifest lists, but cards and pictures, if None.

        Raises:
            UserError: something is missing or damaged, or was changed.
        """
        self.preconditioner(torch.device("cpu"))
        self.assembly()
        for record in self.ensemble.experts:
            ensembles.check(self.directory, record)
        listed = (self.provenance or {}).get(manifest.FILES) or {}
        rest = {*listed} - {*self.ensemble.files} - {record.weights for record in self.ensemble.experts}
        rest = {name for name in rest if not name.endswith(EDITABLE)} if names is None else rest & {*names}
        if self.provenance and (found := manifest.verify(self.directory, self.provenance, rest)):
            raise UserError(str(self.directory), str(found), f"the files that {MANIFEST} lists", TRAIN_AGAIN)

    def preconditioner(self, device: torch.device) -> Preconditioner:
        """The run's preconditioner on a device.

        Raises:
            UserError: it cannot be restored, is not finite, is of volumes of another shape, or was changed.
        """
        config = self.recipe.preconditioner
        restored = restore(config, self.directory / PRECONDITIONER, TRAIN_AGAIN)
        self._check(restored)
        check_unchanged(self.directory / PRECONDITIONER, TRAIN_AGAIN)
        return restored.to(device)

    def space(self, device: torch.device) -> Domain:
        """Where the run's denoisers work, on a device.

        Raises:
            UserError: a network that makes it is missing, damaged, or was changed.
        """
        method, weights = self.recipe.build(), {}
        for name in method.needs:
            where = self.directory / of_expert(name, WEIGHTS)
            check_digest(where, self.ensemble.files.get(of_expert(name, WEIGHTS)), ENSEMBLE, what=f"the {name}", do=TRAIN_AGAIN)
            weights[name] = load_file(where)
        try:
            return method.space(weights, device)
        except (ValueError, RuntimeError) as error:
            where, found = self.directory / of_expert(method.needs[0], WEIGHTS), " ".join(str(error).split())[:200]
            raise UserError(str(where), found, f"the network in {CONFIG}", TRAIN_AGAIN) from None

    @property
    def latents(self) -> tuple[str, ...]:
        """SHA-256 of the networks that make what its denoisers see; none where they see volumes. Runs of equal ones see the same."""
        return tuple(self.ensemble.files.get(of_expert(name, WEIGHTS), "") for name in self.recipe.build().needs)

    def assembly(self) -> Assembly:
        """How the run's volumes are put together.

        Raises:
            UserError: what it draws from cannot be restored, is not finite, or was changed.
        """
        restored = restore_assembly(self.recipe.assembly, self.directory, TRAIN_AGAIN)
        for name, tensor in restored.state().items():
            if not tensor.isfinite().all():
                raise UserError(
                    str(self.directory / ASSEMBLY), f"'{name}' holds values that are not finite", "finite numbers only", TRAIN_AGAIN
                )
        return restored

    def _check(self, preconditioner: Preconditioner) -> None:
        """Refuses statistics that are not finite or not of this run's volumes."""
        where = str(self.directory / PRECONDITIONER)
        for name, tensor in preconditioner.state().items():
            if not tensor.isfinite().all():
                raise UserError(where, f"'{name}' holds values that are not finite", "finite numbers only", TRAIN_AGAIN)
        # On the meta device only shapes and types are computed: whatever a preconditioner consists of, it must map a volume to a volume.
        meta = torch.device("meta")
        piece = self.piece
        volume, sigma = torch.empty(1, 1, *piece, device=meta), torch.ones(1, device=meta)
        kind = (volume.shape, volume.dtype)
        try:
            moved = preconditioner.to(meta)
            made = [moved.denoise(lambda inputs, _: inputs[:, :1], volume, sigma), moved.prior(volume, 1.0)]
            found = next((f"makes {tensor.dtype}{list(tensor.shape)}" for tensor in made if (tensor.shape, tensor.dtype) != kind), "")
        except (RuntimeError, ValueError, IndexError) as error:
            found = f"does not fit ({' '.join(str(error).split())[:200]})"
        if found:
            raise UserError(where, found, f"float32 statistics of volumes of shape {list(piece)}", TRAIN_AGAIN)

    def levels(self, grid: Sequence[float], finest: int = 0) -> list[int]:
        """Level of the expert of each step of a descent, and ``finest`` for the corner in which it ends."""
        own = [self.model_of(phase).level for phase in self.phases]
        return [*(own[owner(self.ensemble.spans, sigma)] for sigma in grid), finest]

    def finest_for(self, level: int, grid: Sequence[float]) -> int:
        """Level of the corners of which means over cubes of 2^level voxels can be made, if all experts of ``grid`` above it are asked.

        What noise there still is where finer experts begin is below :data:`UNSEEN` in these means, and goes with the last step.
        """
        levels = self.levels(grid)[:-1]
        if not never_rise(levels) or self.recipe.build().every_step:
            return 0
        reached = {finest: min(sigma for sigma, other in zip(grid, levels, strict=True) if other >= finest) for finest in set(levels)}
        return max((finest for finest, sigma in reached.items() if finest <= level and sigma_of_means(sigma, level) <= UNSEEN), default=0)

    def climbs(self, grid: Sequence[float]) -> bool:
        """Whether samples can climb (:mod:`volgen.sampling.climb`) on a grid: from experts of coarser levels to those of finer ones."""
        return climbs(self.levels(grid)[:-1])

    def climbing(self, preconditioner: Preconditioner, grid: Sequence[float], finest: int = 0) -> Climbing:
        """How they do it, up to corners of level ``finest``; for a bank of corners."""
        return Climbing([level - finest for level in self.levels(grid, finest)], FittedCorners(preconditioner, finest))

    def bank(
        self, preconditioner: Preconditioner, device: torch.device, grid: Sequence[float], capacity: int = 2, *, corners: bool = False
    ) -> ExpertBank:
        """The run's denoiser.

        Args:
            preconditioner: from :meth:`preconditioner`.
            device: where it computes.
            grid: noise levels in the order in which they will be asked for.
            capacity: experts in memory at once: one that works and one that arrives.
            corners: whether each expert is asked about the corner of volumes that it sees, rather than about whole volumes.
        """
        # Under autocast matrices become bf16 each time they are used; once will do.
        matrices = torch.bfloat16 if self.recipe.engine.precision == "bf16" else None
        phases = self.phases
        of_model = {phase.model: _Maker(self.model_of(phase), preconditioner, corners) for phase in phases}
        makers = [of_model[phase.model] for phase in phases]
        return ExpertBank(self.ensemble, self.directory, makers, device, capacity=capacity, levels=grid, matrices=matrices)


class _Maker:
    """Makes experts of one model."""

    def __init__(self, recipe: Recipe, preconditioner: Preconditioner, corners: bool) -> None:
        self._method, self._phase, self._preconditioner = recipe.build(), recipe.phases()[-1], preconditioner
        self._denoiser = self._method.corner if corners else self._method.denoiser

    def build(self) -> nn.Module:
        return self._method.released(self._phase)

    def wrap(self, module: nn.Module) -> Denoiser:
        return self._denoiser(module, self._preconditioner)


def open_run(directory: Path) -> TrainedRun:
    """Opens a finished run: reads everything but the weights, and compares it with the checksums that training wrote.

    Args:
        directory: where it is; or ``pretrained:NAME``, for a model of the package.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together; or the package has no such model.
    """
    directory = pretrained.folder(directory)
    if not directory.is_dir():
        raise UserError(str(directory), "there is no such directory", "a run that `volgen train` made")
    if not os.path.lexists(directory / ENSEMBLE):
        begun = (directory / CONFIG).exists()
        found = f"is not finished: there is no {ENSEMBLE} yet" if begun else f"is no run: there is no {CONFIG} in it"
        raise UserError(str(directory), found, "a run that `volgen train` has finished", "give its command again" if begun else "")
    ensemble = ensembles.read(directory / ENSEMBLE)
    tidy(directory)
    files = _Files(directory, ensemble)
    for name in (CONFIG, GEOMETRY):
        files.check(name)
    files.check(LEDGER, LEDGER_BYTES)
    if files.has(CHECKSUMS):
        files.check(CHECKSUMS)
    provenance = _provenance(directory)
    recipe = load(directory / CONFIG, own=True)
    _check_levels(directory, recipe, ensemble)
    geometry = Geometry.read(directory)
    if geometry.shape != tuple(recipe.data.shape):
        expected = f"{list(recipe.data.shape)}, as {CONFIG} says"
        raise UserError(str(directory / GEOMETRY), f"has shape {list(geometry.shape)}", expected)
    if geometry.box != recipe.data.box:
        found, expected = (f"{list(place.start)} with {list(place.size)} voxels" for place in (geometry.place, recipe.data.place))
        raise UserError(str(directory / GEOMETRY), f"has a box at {found}", f"one at {expected}, as {CONFIG} says", TRAIN_AGAIN)
    ledger = read_json(directory / LEDGER, "the privacy ledger of a trained run", derivative.is_ledger, limit=LEDGER_BYTES)
    _check_models(directory, recipe, ensemble)
    decisive = {ENSEMBLE: ensemble.digest, GEOMETRY: files.check(GEOMETRY)}
    decisive[PRECONDITIONER] = files.check(PRECONDITIONER, preconditioner_bytes(recipe.preconditioner, recipe.grid))
    if files.has(ASSEMBLY):
        decisive[ASSEMBLY] = files.check(ASSEMBLY, assembly_bytes(recipe.data.grid))
    for name in recipe.build().needs:
        decisive[of_expert(name, WEIGHTS)] = files.check(of_expert(name, WEIGHTS), _bytes_of_needed(directory, recipe, name))
    # The default assembly is left out: runs from before there were others keep their fingerprints. So do options: those that
    # config.yaml names, which are all that there were when the run was trained; what has come since is at its default. The weights are
    # in it through their checksums in ensemble.json.
    sections = [
        "network",
        "preconditioner",
        *(name for name in ("assembly", "method", "level", "view", "conditions") if recipe.stated(name)),
    ]
    model = recipe.model_dump(mode="json", include=set(sections), exclude_unset=True, serialize_as_any=True)
    identity = fingerprint({"model": model, "precision": recipe.engine.precision, "files": decisive})
    return TrainedRun(directory, recipe, ensemble, geometry, ledger, provenance, identity)


def _provenance(directory: Path) -> Mapping[str, Any] | None:
    """The manifest of a run or of a release; None if there is none, which makes nothing of a run unusable."""
    if not (directory / MANIFEST).exists():
        return None
    content = manifest.read(directory, "the manifest of a trained run", limit=MANIFEST_BYTES)
    stage, inputs = content.get("stage"), content.get("inputs")
    if stage not in STAGES or not isinstance(inputs, Mapping) or not (stage == RELEASE or isinstance(inputs.get("fingerprint"), str)):
        do = "restore it from a copy; or delete it: then nobody knows which cohort the run was trained on"
        raise UserError(str(directory / MANIFEST), "has another form", "the manifest of a trained or released run", do)
    return content


class _Files:
    """The files of a run beside the weights, each with the checksum that ``ensemble.json`` has of it."""

    def __init__(self, directory: Path, ensemble: ensembles.Ensemble) -> None:
        self._directory, self._listed = directory, ensemble.files

    def has(self, name: str) -> bool:
        """Whether there is such a file, or should be."""
        return name in self._listed or os.path.lexists(self._directory / name)

    def check(self, name: str, limit: int = SMALL_JSON_BYTES) -> str:
        """SHA-256 of a file, which is the one that training wrote.

        Raises:
            UserError: it is missing, too large or no regular file, or was changed.
        """
        listed = self._listed.get(name, "no such file") if self._listed else None
        what = f"a file of every trained run, of at most {limit} bytes"
        return check_digest(self._directory / name, listed, ENSEMBLE, what=what, do=TRAIN_AGAIN, limit=limit)


def _check_levels(directory: Path, recipe: Recipe, ensemble: ensembles.Ensemble) -> None:
    """Compares the noise levels of the experts with the schedule that they were trained for."""
    grid = recipe.schedule.grid()
    same = len(grid) == len(ensemble.grid) and all(math.isclose(a, b, rel_tol=DIGITS) for a, b in zip(grid, ensemble.grid, strict=True))
    if not same or len(ensemble.experts) != recipe.experts.count:
        found = (
            f"has {len(ensemble.experts)} experts on {len(ensemble.grid)} noise levels, {ensemble.sigma_max:g} to {ensemble.sigma_min:g}"
        )
        expected = f"{recipe.experts.count} on the {len(grid)} levels of {CONFIG}, {grid[0]:g} to {grid[-1]:g}"
        raise UserError(str(directory / ENSEMBLE), found, expected, TRAIN_AGAIN)


def _experts(recipe: Recipe) -> list[Phase]:
    """The experts of a run, in the order of the bank."""
    return sorted((phase for phase in recipe.phases() if phase.index is not None), key=lambda phase: phase.span.low)


def _check_models(directory: Path, recipe: Recipe, ensemble: ensembles.Ensemble) -> None:
    """Compares what experts are made of with ``config.yaml``, and the sizes of the weight files before they take any memory."""
    expected = [_network_bytes(directory, variant) for variant in recipe.variants]
    for phase, record in zip(_experts(recipe), ensemble.experts, strict=True):
        if not recipe.agrees(phase, record.model, str(directory / ENSEMBLE)):
            found = f"expert {record.index} is of another model: {json.dumps(record.model)[:200]}"
            raise UserError(str(directory / ENSEMBLE), found, f"that of {CONFIG}", TRAIN_AGAIN)
        path = directory / record.weights
        try:
            size = tensor_bytes(path)
        except OSError as error:
            raise UserError(str(path), f"cannot be read ({error.strerror or error})", "a safetensors file", TRAIN_AGAIN) from None
        if size not in expected[phase.model]:
            wanted = f"{expected[phase.model][0]}, which the network in {CONFIG} has"
            raise UserError(str(path), f"does not hold the weights of this network: {size} bytes of them", wanted, TRAIN_AGAIN)


def _bytes_of_needed(directory: Path, recipe: Recipe, name: str) -> int:
    """Most bytes of a file of weights that experts need."""
    phase = next(phase for phase in recipe.phases() if phase.name == name)
    return HEADER + max(_network_bytes(directory, recipe, phase))


def _network_bytes(directory: Path, recipe: Recipe, phase: Phase | None = None) -> tuple[int, int]:
    """Bytes of the weights of a network of ``config.yaml``, that of experts if None, as training writes them and in a compact release."""
    try:
        with torch.device("meta"):
            return compact.bytes_of(recipe.build().released(phase or recipe.phases()[-1]))
    except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        found = f"network: cannot be built ({' '.join(str(error).split())[:200]})"
        raise UserError(str(directory / CONFIG), found, "the network that was trained", TRAIN_AGAIN) from None
