"""Low-rank adapters (Hu et al. 2021, "LoRA", equation 3): W x + s B A x, of which only A and B are trained.

The rank-r branch of a convolution is one with the same window to r channels and one of a single voxel from there, so that B A, as a matrix
[out, in * window], can be added to the weight when training is done. Few weights are trained, so the noise of private training, whose norm
grows with the root of their number, is smaller beside the gradient; and the gradient of W itself is never computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from volgen.core.config import Config as BaseConfig
from volgen.core.limits import MAX_RANK
from volgen.models.adapters._layers import replace_layers
from volgen.models.convolution import Conv

BASE, DOWN, UP = "lora_base", "lora_down", "lora_up"


class Config(BaseConfig):
    """A branch of rank ``rank`` beside every convolution and linear layer; the layers themselves, their biases and norms are frozen."""

    kind: Literal["lora"] = "lora"
    needs_trained: ClassVar[bool] = True
    rank: int = Field(default=4, ge=1, le=MAX_RANK)
    """r; of a layer with fewer channels as many as it has."""
    scale: PositiveFloat = 1.0
    """s: how much a step in A and B changes the layer."""

    def attach(self, network: nn.Module) -> None:
        """Puts a branch beside every layer; B is 0, so the network computes what it did. A comes from torch's global generator.

        Raises:
            ValueError: there are no layers that it knows.
        """
        replace_layers(network, lambda layer: LowRank(layer, self.rank, self.scale))

    def merge(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W + s B A for each layer, under its own name."""
        merged = {}
        for name, tensor in state.items():
            if f".{DOWN}." in f".{name}" or f".{UP}." in f".{name}":
                continue
            if name.endswith(f"{BASE}.weight"):
                beside = name.removesuffix(f"{BASE}.weight")
                up, down = state[f"{beside}{UP}.weight"], state[f"{beside}{DOWN}.weight"]
                change = up.flatten(1).double() @ down.flatten(1).double()
                tensor = (tensor.double() + self.scale * change.view(tensor.shape)).to(tensor.dtype)
            merged[name.replace(f"{BASE}.", "")] = tensor
        return merged


class LowRank(nn.Module):
    """A frozen layer and its branch.

    Args:
        layer: a linear layer or a convolution without groups.
        rank: most channels between A and B.
        scale: factor of the branch's output.
    """

    def __init__(self, layer: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        down, up = _branch(layer, rank)
        nn.init.kaiming_uniform_(down.weight.data.flatten(1), a=math.sqrt(5))  # type: ignore[operator]
        nn.init.zeros_(up.weight)  # type: ignore[arg-type]
        self.lora_base, self.lora_down, self.lora_up = layer, down, up

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output and the branch's."""
        return self.lora_base(x) + self.scale * self.lora_up(self.lora_down(x))  # type: ignore[no-any-return]


def _branch(layer: nn.Module, rank: int) -> tuple[nn.Module, nn.Module]:
    """A to at most ``rank`` channels, and B from there."""
    assert isinstance(layer.weight, Tensor)
    outputs, fan_in = layer.weight.flatten(1).shape
    rank = min(rank, outputs, fan_in)
    if isinstance(layer, Conv):
        size = layer.shape[-1]
        down = Conv(layer.dims, layer.shape[1], rank, size, layer.stride, bias=False)
        return down, Conv(layer.dims, rank, outputs, size=1, bias=False)
    if isinstance(layer, nn.Linear):
        return nn.Linear(fan_in, rank, bias=False), nn.Linear(rank, outputs, bias=False)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    kind = type(layer)
    window = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    return kind(layer.in_channels, rank, layer.kernel_size, bias=False, **window), kind(rank, outputs, 1, bias=False)  # type: ignore[arg-type]
