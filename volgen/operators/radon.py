"""Computed tomography with parallel rays, slice by slice: few views, or views of a limited arc.

Each ray is a sum along the axis to which it is closer, interpolated linearly across it (Joseph 1982). The weights are a sparse matrix,
the same for every slice, and the adjoint is its transpose, exactly. Data are means along rays, in parts of the slice's longer edge: through
a slice of ones an axis-parallel ray along it measures 1. What is outside of the volume counts as nothing, which is air in intensities.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import AXES, Axis, Operator, Shape3


class Config(BaseConfig):
    """Parallel rays at equally spaced angles."""

    kind: Literal["radon"] = "radon"
    axis: Axis = "S"
    """The axis that the gantry turns around: each slice across it is seen by itself."""
    views: int = Field(default=24, ge=1, le=4096)
    """How many angles."""
    arc: float = Field(default=180.0, gt=0.0, le=180.0)
    """Degrees that the angles cover; below 180 some directions are never seen."""
    start: float = Field(default=0.0, ge=-180.0, le=180.0)
    """The first angle in degrees; at 0 rays go along the second of the slice's axes."""

    def build(self, shape: Shape3, device: torch.device) -> Operator:
        """Makes the operator."""
        across = AXES.index(self.axis)
        first, second = (edge for place, edge in enumerate(shape) if place != across)
        angles = [math.radians(self.start + self.arc * view / self.views) for view in range(self.views)]
        return ParallelRays((first, second), across, angles, device)


class ParallelRays(Operator):
    """Rays through slices.

    Args:
        edges: voxels along a slice's two axes.
        across: the number of the axis across slices.
        angles: directions of the views, in radians.
        device: where it computes.
    """

    def __init__(self, edges: tuple[int, int], across: int, angles: list[float], device: torch.device) -> None:
        self._edges, self._across, self._views = edges, across, len(angles)
        # As many more on both sides as the diagonal takes, so that axis-parallel rays go through the middles of voxels.
        self._detectors = max(edges) + 2 * math.ceil((math.hypot(*edges) - max(edges)) / 2)
        entries = [_view(edges, self._detectors, angle) for angle in angles]
        rows = torch.cat([number * self._detectors + ray for number, (ray, _, _) in enumerate(entries)])
        columns = torch.cat([voxel for _, voxel, _ in entries])
        weights = torch.cat([weight for _, _, weight in entries]) / max(edges)
        size = (self._views * self._detectors, edges[0] * edges[1])
        self._forth = _sparse(rows, columns, weights, size).to(device)
        self._back = _sparse(columns, rows, weights, (size[1], size[0])).to(device)

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """Data [B, views, detectors, slices]."""
        columns = x_BCXYZ[:, 0].movedim(1 + self._across, -1).flatten(1, 2)
        rays = torch.stack([torch.sparse.mm(self._forth, each) for each in columns])
        return rays.view(len(rays), self._views, self._detectors, -1)

    def adjoint(self, data: Tensor) -> Tensor:
        """Every ray's number is given to the voxels on it."""
        columns = torch.stack([torch.sparse.mm(self._back, each) for each in data.flatten(1, 2)])
        return columns.view(len(columns), *self._edges, -1).movedim(-1, 1 + self._across)[:, None]


def _view(edges: tuple[int, int], detectors: int, angle: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rays, voxels and weights of one view: along the axis to which its rays are closer, two voxels at each step."""
    cosine, sine = math.cos(angle), math.sin(angle)
    steep = abs(cosine) >= abs(sine)  # rays go along the second axis, more or less
    steps, across = (edges[1], edges[0]) if steep else edges
    # A ray is where u cos + v sin = t, with (u, v) from the slice's middle.
    t = torch.arange(detectors, dtype=torch.float64)[:, None] - (detectors - 1) / 2
    along = torch.arange(steps, dtype=torch.float64)[None] - (steps - 1) / 2
    leading, other = (cosine, sine) if steep else (sine, cosine)
    place = (t - along * other) / leading + (across - 1) / 2
    low = place.floor()
    share = place - low
    found = []
    for step, weight in ((0, 1 - share), (1, share)):
        voxel = low.long() + step
        inside = (voxel >= 0) & (voxel < across) & (weight > 0)
        ray, position = inside.nonzero(as_tuple=True)
        hit = voxel[inside]
        flat = hit * edges[1] + position if steep else position * edges[1] + hit
        found.append((ray, flat, weight[inside] / abs(leading)))
    rays, voxels, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    return rays, voxels, weights.float()


def _sparse(rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, size, check_invariants=False).coalesce()
