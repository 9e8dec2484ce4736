"""Volumes at a glance: the middle slices of some of them, beside each other, as one picture with letters for the sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from volgen.core.files import atomic_path

INCHES, DPI = 1.6, 110
EDGES = ((2, 1), (2, 0), (1, 0))
"""Array axes along the rows and the columns of a sagittal, a coronal and an axial plane."""
SIDES = (("P", "A"), ("L", "R"), ("L", "R"))
"""What is at the left and at the right of each of these planes, in a RAS+ volume."""
FOOT = "Seen from behind and from above: the left of a picture is the left of the head (L)."


@dataclass(frozen=True)
class Middle:
    """The middle slices of one volume.

    Attributes:
        name: above the column.
        planes_RC: across R (sagittal), A (coronal) and S (axial), in [0, 1], upright.
    """

    name: str
    planes_RC: tuple[NDArray[np.float32], ...]

    @classmethod
    def of(cls, name: str, unit_XYZ: NDArray[np.float32]) -> Middle:
        """The column of a volume in [0, 1], RAS+."""
        # Rows come from the top: the highest S, or the foremost A, is the first.
        return cls(name, tuple(unit_XYZ.take(unit_XYZ.shape[axis] // 2, axis).T[::-1].copy() for axis in range(3)))


def write_overview(path: Path, volumes: Sequence[Middle], voxel_size: Sequence[float], title: str) -> None:
    """A column for each volume with its axial, coronal and sagittal middle slice; PNG, equal volumes give equal bytes.

    Args:
        path: the file.
        volumes: one volume or more, all of one shape.
        voxel_size: mm along R, A, S.
        title: words above the picture.
    """
    figure = Figure(figsize=(INCHES * max(len(volumes), 3), INCHES * 3 + 0.7), facecolor="black", layout="constrained")
    axes = figure.subplots(3, len(volumes), squeeze=False)
    for column, volume in enumerate(volumes):
        for row, axis in enumerate((2, 1, 0)):
            rows, columns = EDGES[axis]
            plot, (left, right) = axes[row][column], SIDES[axis]
            plot.imshow(volume.planes_RC[axis], cmap="gray", vmin=0, vmax=1, aspect=voxel_size[rows] / voxel_size[columns])
            plot.set_axis_off()
            for place, letter, align in ((0.02, left, "left"), (0.98, right, "right")):
                plot.text(place, 0.02, letter, color="#ffb000", fontsize=8, ha=align, va="bottom", transform=plot.transAxes)
        axes[0][column].set_title(volume.name, color="white", fontsize=8)
    figure.suptitle(title, color="white", fontsize=9)
    figure.supxlabel(FOOT, color="white", fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": ""})
