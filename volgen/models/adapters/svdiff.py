"""Spectral shifts (Han et al. 2023, "SVDiff", equation 4): of W = U diag(s) V^T only the singular values are trained, to relu(s + delta).

W is a layer's weight as a matrix [out, in * window], so there are min(out, in * window) numbers to train in each layer: fewer than in
branches of low rank, and none of them turns the directions that a public cohort has taught.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from volgen.core.config import Config as BaseConfig
from volgen.models.adapters._layers import replace_layers
from volgen.models.convolution import Conv

BASE, SHIFT = "svdiff_base", "svdiff_shift"
LEFT, VALUES, RIGHT = "svdiff_left", "svdiff_values", "svdiff_right"


class Config(BaseConfig):
    """The singular values of every convolution and linear layer; their directions, biases and norms are frozen."""

    kind: Literal["svdiff"] = "svdiff"
    needs_trained: ClassVar[bool] = True

    def attach(self, network: nn.Module) -> None:
        """Takes every layer's weight apart; delta is 0, so the network computes what it did.

        Raises:
            ValueError: there are no layers that it knows.
        """
        replace_layers(network, Spectral)

    def merge(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W + U diag(relu(s + delta) - s) V^T for each layer, under its own name."""
        merged = {}
        for name, tensor in state.items():
            if name.endswith((SHIFT, LEFT, VALUES, RIGHT)):
                continue
            if name.endswith(f"{BASE}.weight"):
                beside = name.removesuffix(f"{BASE}.weight")
                left, values, right, shift = (state[f"{beside}{part}"].double() for part in (LEFT, VALUES, RIGHT, SHIFT))
                tensor = (tensor.double() + _change(left, values, right, shift).view(tensor.shape)).to(tensor.dtype)
            merged[name.replace(f"{BASE}.", "")] = tensor
        return merged


class Spectral(nn.Module):
    """A frozen layer, and beside it one whose weight is the change of its singular values.

    Args:
        layer: a linear layer or a convolution without groups.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer.weight, Tensor)
        weight = layer.weight.detach()
        left, values, right = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
        self._shape, dtype = weight.shape, weight.dtype
        # A layer whose weight is given to it: not a module of this one, so that nobody takes its weight for one.
        self._beside = (_without_weight(layer),)
        self.svdiff_base = layer
        self.svdiff_shift = nn.Parameter(torch.zeros_like(values, dtype=dtype))
        for name, part in ((LEFT, left), (VALUES, values), (RIGHT, right)):
            self.register_buffer(name, part.to(dtype).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output and that of the change."""
        left, values, right = (self.get_buffer(name) for name in (LEFT, VALUES, RIGHT))
        change = _change(left, values, right, self.svdiff_shift).view(self._shape)
        beside: Tensor = torch.func.functional_call(self._beside[0], {"weight": change}, (x,))
        return self.svdiff_base(x) + beside  # type: ignore[no-any-return]


def _change(left: Tensor, values: Tensor, right: Tensor, shift: Tensor) -> Tensor:
    """U diag(relu(s + delta) - s) V^T [out, in * window]: 0, to the last bit, where delta is."""
    return (left * (torch.relu(values + shift) - values)) @ right


def _without_weight(layer: nn.Module) -> nn.Module:
    """A layer like another, without bias, whose weight has a shape only."""
    with torch.device("meta"):
        if isinstance(layer, Conv):
            outputs, inputs, size, *_ = layer.shape
            return Conv(layer.dims, inputs, outputs, size, layer.stride, bias=False)
        if isinstance(layer, nn.Linear):
            return nn.Linear(layer.in_features, layer.out_features, bias=False)
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        window = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        return type(layer)(layer.in_channels, layer.out_channels, layer.kernel_size, bias=False, **window)  # type: ignore[arg-type]
