"""What a network learns of places: features on a coarse grid over the whole volume, interpolated to wherever a piece of it is.

Legend: B batch, C channel, X Y Z voxels, i j k nodes of the grid.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from volgen.core.config import Config, three
from volgen.models.place import axis_lines

MAX_NODES = 64


class PlaceConfig(Config):
    """Features of places, one for each channel of the network's first resolution, to whose features they are added."""

    grid: tuple[int, int, int] = Field(default=(5, 6, 5))
    """Nodes along the RAS+ axes, from border to border of the volume, or one number for a cube; between them it is interpolated."""

    @field_validator("grid", mode="before")
    @classmethod
    def _cube(cls, value: Any) -> Any:
        return three(value)

    @field_validator("grid")
    @classmethod
    def _possible(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if not all(1 <= nodes <= MAX_NODES for nodes in value):
            raise ValueError(f"{list(value)}: a grid of places has 1 to {MAX_NODES} nodes along an axis")
        return value


class Places(nn.Module):
    """Learned features [C, i j k], zero at first, trilinear between the nodes; it costs three small matrix products."""

    def __init__(self, channels: int, config: PlaceConfig, edge: int) -> None:
        """``edge``: voxels of the input along one of the network's."""
        super().__init__()
        self.grid, self.edge = config.grid, edge
        self.features = nn.Parameter(torch.zeros(channels, config.grid[0] * config.grid[1] * config.grid[2]))

    def forward(self, coordinates_BCXYZ: Tensor) -> Tensor:
        """Coordinates of voxels [B, 3, ...] (:mod:`volgen.models.place`) -> [B, C, X, Y, Z], channels last in memory."""
        x_BXi, y_BYj, z_BZk = map(self._shares, axis_lines(coordinates_BCXYZ), self.grid)
        h = torch.einsum("bxi,cijk->bxjkc", x_BXi, self.features.view(-1, *self.grid))
        h = torch.einsum("byj,bxjkc->bxykc", y_BYj, h)
        return (z_BZk[:, None, None] @ h).movedim(-1, 1)

    def of_each(self, coordinates_BCXYZ: Tensor, gradient_BCXYZ: Tensor) -> dict[nn.Parameter, Tensor]:
        """The gradient of the features of each example, [B, C, i j k], from that of what came out: for private training."""
        x_BXi, y_BYj, z_BZk = map(self._shares, axis_lines(coordinates_BCXYZ), self.grid)
        h = torch.einsum("bcxyz,bxi->bciyz", gradient_BCXYZ, x_BXi)
        h = torch.einsum("bciyz,byj->bcijz", h, y_BYj)
        return {self.features: torch.einsum("bcijz,bzk->bcijk", h, z_BZk).flatten(2)}

    def _shares(self, place_BN: Tensor, nodes: int) -> Tensor:
        """How much of each node is at each place along an axis, [B, N / edge, nodes]."""
        position: Tensor = ((place_BN.unflatten(1, (-1, self.edge)).mean(dim=2) + 1) / 2 * (nodes - 1)).clamp(0, nodes - 1)
        return (1 - (position[..., None] - torch.arange(nodes, device=position.device)).abs()).clamp(min=0)
