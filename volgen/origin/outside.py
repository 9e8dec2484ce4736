"""Weights that were not made here: a file of tensors by name, read without running anything that is in it, and compared with a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from volgen.core.errors import UserError

INSIDE = ("state_dict", "model", "network")
"""Keys under which a file may have the weights, beside other things."""
WRAPPED = "module."
"""What a network that was trained on several devices calls its parts."""
SHOWN = 3


def weights_of(where: str, path: Path, network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Weights for a part of a network, float32, from a file of another program.

    Args:
        where: what names the file.
        path: safetensors, or what ``torch.save`` wrote of tensors alone.
        network: whose part it is; on the meta device it takes no memory.
        prefix: what the names of the part's weights begin with in the network.

    Returns:
        All weights and buffers of the part, by their names in ``network``.

    Raises:
        UserError: the file cannot be read, or has other names or shapes.
    """
    found = _bare(where, _read(where, path))
    wanted = {name.removeprefix(prefix): tensor for name, tensor in network.state_dict().items() if name.startswith(prefix)}
    missing, strange = [name for name in wanted if name not in found], [name for name in found if name not in wanted]
    if missing or strange:
        said = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(strange)}, which this network has not"] * bool(strange)
        do = "give the network the sizes that the weights were trained with (channels, blocks, attention, conditioning, norm groups)"
        raise UserError(where, " and ".join(said), f"the {len(wanted)} weights of this network", do)
    odd = [name for name, tensor in wanted.items() if found[name].shape != tensor.shape]
    if odd:
        shapes = f"{list(found[odd[0]].shape)}, and in this network {list(wanted[odd[0]].shape)}"
        others = f" ({len(odd) - 1} more differ)" if len(odd) > 1 else ""
        raise UserError(where, f"has {odd[0]} of shape {shapes}{others}", "weights of one shape", "give the network those sizes")
    weights = {name: found[name].float().contiguous() for name in wanted}
    wrong = [name for name, tensor in weights.items() if not found[name].is_floating_point() or not tensor.isfinite().all()]
    if wrong:
        raise UserError(where, f"has {_some(wrong)} with values that are no finite numbers", "finite float32 numbers only")
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def _read(where: str, path: Path) -> Any:
    do = "save it anew, with safetensors or as torch.save(network.state_dict(), PATH)"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        why = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(where, f"cannot be read as tensors by name ({why})", "a file of weights, and nothing else in it", do) from None


def _bare(where: str, content: Any) -> dict[str, Tensor]:
    for key in INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = isinstance(content, Mapping) and all(isinstance(name, str) and isinstance(each, Tensor) for name, each in content.items())
    if not tensors or not content:
        raise UserError(where, "holds something else than tensors by name", f"weights, at the top or under {', '.join(INSIDE)}")
    wrapped = all(name.startswith(WRAPPED) for name in content)
    return {name.removeprefix(WRAPPED) if wrapped else name: tensor for name, tensor in content.items()}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
