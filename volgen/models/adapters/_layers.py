"""What adapters share that change layers: which layers those are, and how one takes another's place."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from volgen.models.convolution import Conv


def replace_layers(network: nn.Module, made: Callable[[nn.Module], nn.Module]) -> None:
    """Freezes a network and puts something in the place of every linear layer and every convolution without groups.

    Args:
        network: is changed in place.
        made: what takes the place of a layer; it holds the layer.

    Raises:
        ValueError: there are no such layers.
    """
    network.requires_grad_(False)
    layers = [(name, module) for name, module in network.named_modules() if _known(module)]
    if not layers:
        raise ValueError("the network has no convolutions or linear layers")
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, made(layer))


def _known(layer: nn.Module) -> bool:
    plain = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1 and layer.padding_mode == "zeros"
    return plain or isinstance(layer, nn.Linear | Conv)
