"""``overview.png``: the first volumes of a directory of samples at a glance."""

from __future__ import annotations

from volgen.commands.sample.job import Job
from volgen.data.derivative import OVERVIEW
from volgen.images import nifti
from volgen.reporting.overview import Middle, write_overview

MOST = 8


def draw(job: Job) -> None:
    """Draws, or draws anew, the picture of the first volumes that a directory holds, in the order of their names."""
    names = job.names.complete(job.out)[:MOST]
    geometry = job.geometry
    middles = []
    for name in names:  # one volume in memory at a time
        unit = geometry.intensity.to_unit(nifti.read(job.out / name).voxels)
        middles.append(Middle.of(name.rpartition("/")[2].partition("_")[0], unit))
    if middles:
        write_overview(job.out / OVERVIEW, middles, geometry.voxel_size, f"{job.run.recipe.name}: synthetic volumes, middle slices")
