"""A released run made small, so that it can be handed on inside of a package: ``volgen release --compact``.

Matrices of weights are in bf16, which changes nothing where the networks compute in bf16; what was fitted is stored as the preconditioner
says (:meth:`volgen.models.denoiser.Preconditioner.compact`); the course of training is left out, and so are the places that the
configuration names. A fitted mean lies beside them as an image, for cohorts that are to come into the same frame.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from volgen.core import pretrained
from volgen.core.config import dump_yaml
from volgen.core.files import sha256, write_text
from volgen.core.manifest import checksums
from volgen.core.run_files import CONFIG, ENSEMBLE, WEIGHTS, of_expert
from volgen.experts import compact
from volgen.experts import ensemble as ensembles
from volgen.experts.plan import Phase
from volgen.images import nifti
from volgen.images.blocks import block_affine, block_means, voxels_in
from volgen.images.volume import Volume
from volgen.models.denoiser import Preconditioner
from volgen.recipe import Recipe
from volgen.runs import fitted
from volgen.runs.trained import TrainedRun, open_run

STORE, RUNS = "cohort.zarr", "runs"
"""What stands in a configuration for the places where cohort and runs were."""
EDGE = 2.0
"""Edge in mm of a template's voxels, if those of the model are not larger: a mean of people holds nothing finer."""
MEAN = "volgen: mean of the people of a model"
DROWNED = 1e6
"""A noise level at which a volume says nothing, and what is expected is the mean."""


def compacted(trained: TrainedRun) -> TrainedRun:
    """Makes a copy of a run small, in its place, and opens it again.

    Args:
        trained: the copy; nobody else may use its folder.
    """
    folder, recipe = trained.directory, trained.recipe
    preconditioner = trained.preconditioner(torch.device("cpu"))
    if recipe.preconditioner.fitted:
        _write_template(folder / pretrained.TEMPLATE, trained, preconditioner)
    fitted.write_compact(preconditioner, folder)
    write_text(folder / CONFIG, dump_yaml(_placeless(recipe)))
    phases = {phase.index: phase for phase in recipe.phases()}
    experts = []
    for expert in trained.ensemble.experts:
        experts.append(replace(expert, sha256=_compact(recipe, phases[expert.index], folder / expert.weights)))
    for phase in (phase for phase in recipe.phases() if phase.index is None):
        if (path := folder / of_expert(phase.name, WEIGHTS)).exists():
            _compact(recipe, phase, path)
    bank = trained.ensemble
    ensembles.write(folder / ENSEMBLE, replace(bank, experts=tuple(experts), files=checksums(folder, list(bank.files))))
    return open_run(folder)


def _compact(recipe: Recipe, phase: Phase, path: Path) -> str:
    """Makes the weights of a network small, in their place, and returns their digest."""
    with torch.device("meta"):
        network = recipe.of(phase).build().released(phase)
    compact.compact(path, network)
    return sha256(path)


def _placeless(recipe: Recipe) -> Recipe:
    """The configuration without the places where cohort and runs were."""
    data = recipe.data.model_copy(update={"store": STORE})
    return recipe.model_copy(update={"data": data, "runs": RUNS})


def _write_template(path: Path, trained: TrainedRun, preconditioner: Preconditioner) -> None:
    """The mean of the cohort, as coarse as a template may be; its middle is that of the model's grid."""
    expected = preconditioner.expected(torch.zeros(1, 1, *trained.whole), torch.tensor([DROWNED]))
    with torch.no_grad():
        x_BCXYZ = trained.space(torch.device("cpu")).decode(expected)
    mean = trained.geometry.volume(x_BCXYZ[0, 0])
    edges = [voxels_in(size, EDGE) for size in mean.voxel_size]
    if any(size % edge for size, edge in zip(mean.shape, edges, strict=True)):
        edges = [1, 1, 1]
    nifti.write(path, Volume(block_means(mean.voxels, edges), block_affine(mean.affine, edges)), dtype="int16", description=MEAN)
