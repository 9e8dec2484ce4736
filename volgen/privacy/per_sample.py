"""Gradients of every sample of one backward pass, by Opacus' hooks. The other door to Opacus.

Two things are done otherwise than Opacus does them, because they take time or memory: a convolution's gradient of each sample is a
convolution of its own (Opacus unfolds the input: size^3 times its memory), and the sum over the batch is not computed beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CLOSE, ROUNDING = 1e-4, 1e-6
"""Largest difference between a sample's gradient and that of a pass of its own, relative to the norm of one parameter's, and of all."""

Network = Callable[..., Tensor]
"""``network(input_BCXYZ, noise_B) -> output_BCXYZ``; what else it is asked with has no gradient."""


class PerSample:
    """Opacus' ``GradSampleModule`` on a network that stays as it is: what it adds are hooks.

    The backward pass asks for gradients of the network's inputs: on its way every layer meets its hook, and DeepSpeed's are not met.

    Args:
        network: fp32 weights, in training mode, without activation checkpointing (a layer must run once).

    Raises:
        NotImplementedError: a trained layer has buffers.
    """

    def __init__(self, network: nn.Module) -> None:
        self._trained = [p for p in network.parameters() if p.requires_grad]
        self._wrapped = _module(network)
        self._leaves: list[Tensor] = []

    def inputs(self, input_BCXYZ: Tensor, noise_B: Tensor) -> tuple[Tensor, Tensor]:
        """What the network gets instead of its inputs, in each forward pass before :meth:`gradients`."""
        leaves = (input_BCXYZ.detach().requires_grad_(), noise_B.detach().requires_grad_())
        self._leaves += leaves
        return leaves

    def gradients(self, loss_B: Tensor, patients: int) -> list[Tensor]:
        """The gradients of patients' mean losses, [patients, ...] for each trained parameter.

        Args:
            loss_B: losses, those of as many views of one patient after another; each of as many of the network's samples.
            patients: how many they are.

        Raises:
            RuntimeError: a parameter was not met, or not once.
        """
        views = len(loss_B) // patients
        samples = {len(leaf) for leaf in self._leaves}
        torch.autograd.grad(loss_B.sum() / views, self._leaves, allow_unused=True)
        found: list[Tensor] = []
        for parameter in self._trained:
            each, parameter.grad_sample = parameter.grad_sample, None  # type: ignore[attr-defined]
            if not isinstance(each, Tensor) or {len(each)} != samples or len(each) % len(loss_B):
                raise RuntimeError("a parameter meets something else than one sample after another")
            # An example may be several samples, such as patches of a scan, one after another.
            found.append(each if len(each) == patients else each.unflatten(0, (patients, -1)).sum(dim=1))
        self._leaves = []
        return found

    def close(self) -> None:
        """Takes the hooks off."""
        self._wrapped.cleanup()


def differs(network: nn.Module, input_BCXYZ: Tensor, noise_B: Tensor, *told: Mapping[str, Tensor]) -> str:
    """Whether this network's gradients of each sample differ from those of a loop over samples; why, or "" if they do not.

    What Opacus does wrongly is found by trying, not by a list of layers. It is tried on a copy with random weights: what starts at
    zero would hide a difference.

    Args:
        network: in fp32.
        input_BCXYZ: small and all different, B at least 2.
        noise_B: likewise.
        told: likewise, where a network is told more.
    """
    tried = _random_copy(network)
    trained = [p for p in tried.parameters() if p.requires_grad]

    def loss(inputs: Tensor, noise: Tensor, rows: slice = slice(None)) -> Tensor:
        output: Tensor = tried(inputs, noise, *({name: value[rows] for name, value in one.items()} for one in told))
        return (output - 1.0).square().mean(dim=(1, 2, 3, 4))

    try:
        each = PerSample(tried)
        together = each.gradients(loss(*each.inputs(input_BCXYZ, noise_B)), len(noise_B))
        each.close()
    except Exception as error:  # whatever it is, the other way is always right
        return f"Opacus cannot take a layer apart by patients ({(str(error) or type(error).__name__).splitlines()[0]})"
    for row in range(len(noise_B)):
        mine = slice(row, row + 1)
        alone = loss(input_BCXYZ[mine], noise_B[mine], mine).sum()
        gradients = torch.autograd.grad(alone, trained, allow_unused=True)
        if any(gradient is None for gradient in gradients):
            return "a parameter is not used"
        whole, norm = torch.nn.utils.get_total_norm(gradients), torch.linalg.vector_norm
        for every, gradient in zip(together, gradients, strict=True):
            if not norm(every[row] - gradient) <= CLOSE * norm(gradient) + ROUNDING * whole:
                return "Opacus' gradients of its patients differ from those of passes of their own"
    return ""


def meets(network: nn.Module, loss: Callable[[Network, Sequence[int]], Tensor], patients: int, views: int) -> str:
    """Whether a patient's gradient depends, in any bit, on who else is in the pass or on the place in it; why, or "" if it does not.

    Kernels of this machine may sum the first sample of a batch otherwise than the last. That would be rounding, but rounding in which
    patients meet. It is tried on a copy with random weights, in the size that training has.

    Args:
        network: in fp32, on the device that will be trained on.
        loss: training's loss [B] with a network, for views of a pass, which all differ, in the order asked for.
        patients: in a pass, at least 2.
        views: number of views of each patient.
    """
    tried = _random_copy(network)
    each = PerSample(tried)

    def gradients(order: Sequence[int]) -> list[Tensor]:
        rows = [place * views + view for place in order for view in range(views)]
        return each.gradients(loss(lambda x, noise, *told, **kept: tried(*each.inputs(x, noise), *told, **kept), rows), patients)

    usual = gradients(range(patients))
    backwards = gradients(range(patients)[::-1])
    alone = gradients([0] * patients)
    each.close()
    for one, other, same in zip(usual, backwards, alone, strict=True):
        if not (torch.equal(one, other.flip(0)) and torch.equal(same, one[:1].expand_as(same))):
            return "the last bits of a patient's gradient would depend on who else is in the pass"
    return ""


def _random_copy(network: nn.Module) -> nn.Module:
    tried = copy.deepcopy(network).train()
    generator = torch.Generator().manual_seed(0)
    for p in tried.parameters():
        scale = (p[0].numel() if p.dim() > 1 else 1) ** -0.5
        p.data = p.data + (torch.randn(p.shape, generator=generator) * scale).to(p.device)
    return tried


def _module(network: nn.Module) -> Any:
    from opacus.grad_sample import GradSampleModule

    ours = {type(layer) for layer in network.modules() if hasattr(layer, "plain")} | {nn.Conv2d, nn.Conv3d}
    # Layers that Opacus knows nothing of say themselves what the gradient of each sample is.
    own = {type(layer): _of_each for layer in network.modules() if hasattr(layer, "of_each")}
    # A table of its own: everybody else's stays as Opacus made it.
    table = {**GradSampleModule.GRAD_SAMPLERS, **dict.fromkeys(ours, _convolution), **own}
    kind = type("GradSampleModule", (GradSampleModule,), {"GRAD_SAMPLERS": table})
    return kind(network, loss_reduction="sum", strict=True)


def _of_each(layer: Any, activations: Sequence[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """What a layer with ``of_each(input, gradient of the output)`` says: [B, ...] for each of its parameters."""
    found: dict[nn.Parameter, Tensor] = layer.of_each(activations[0], backprops)
    return found


def _convolution(layer: Any, activations: Sequence[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """One convolution for each sample, as long as the backward pass of an ordinary step takes for it.

    Args:
        layer: a layer of torch, or one with ``plain()``, which is torch's layer with the same weights in another shape.
        activations: what went in, [B, in, ...].
        backprops: gradient of what came out, [B, out, ...].
    """
    plain = layer.plain() if hasattr(layer, "plain") else layer
    if plain.padding_mode != "zeros" or isinstance(plain.padding, str):
        raise NotImplementedError(f"{plain} has no gradient of each sample")
    x, dims = activations[0].to(backprops.dtype), len(plain.kernel_size)
    blank = torch.empty(plain.weight.shape, dtype=backprops.dtype, device=backprops.device)
    found: dict[nn.Parameter, Tensor] = {}
    if layer.weight.requires_grad:
        weight = torch.empty((len(x), *layer.weight.shape), dtype=backprops.dtype, device=backprops.device)
        for row in range(len(x)):
            _, gradient, _ = torch.ops.aten.convolution_backward(
                backprops[row : row + 1], x[row : row + 1], blank, None, plain.stride, plain.padding, plain.dilation, False, [0] * dims,
                plain.groups, [False, True, False],
            )  # fmt: skip
            weight[row] = gradient.view(layer.weight.shape)
        found[layer.weight] = weight
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = backprops.flatten(2).sum(dim=2)
    return found
