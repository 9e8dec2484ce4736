"""What differential privacy cannot be had with, and why: everything that is not known to be right is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

NETWORKS = ("slice_unet2d", "triplanar", "unet3d", "wavelet_unet3d")
FITTED = ("gaussian",)
"""Preconditioners that are functions of a cohort: they have to come from a public one."""
PRECONDITIONERS = ("edm", "epsilon", "flow", "v", "x0")


def of_recipe(recipe: Any) -> Iterator[str]:
    """Reasons why a recipe (of :mod:`volgen.recipe`, which this package does not know) cannot be trained privately."""
    if recipe.optimiser.gradient_clip:
        yield (
            f"optimiser.gradient_clip is {recipe.optimiser.gradient_clip:g}: the engine would clip the sum after the noise;"
            " privacy.clip_norm clips each patient. Set it to 0"
        )
    if recipe.optimiser.matrix_learning_rate:
        yield "optimiser.matrix_learning_rate: Muon is not tested with noised gradients. Set it to 0"
    if recipe.stopping.min_steps != recipe.stopping.max_steps:
        yield (
            f"stopping.min_steps ({recipe.stopping.min_steps}) differs from max_steps ({recipe.stopping.max_steps}): when to stop would"
            " depend on validation people, whom nothing protects. Set both to a fixed number of steps"
        )
    if recipe.preconditioner.kind not in (*PRECONDITIONERS, *(FITTED if recipe.start.public else ())):
        yield (
            f"preconditioner.kind '{recipe.preconditioner.kind}' is fitted to the cohort, and nothing accounts for that."
            f" Begin from a public run (start.kind public), whose fit costs nothing, or choose one of {', '.join(PRECONDITIONERS)}"
        )
    if recipe.network.kind not in NETWORKS:
        yield f"network.kind '{recipe.network.kind}' is not tested. Choose one of {', '.join(NETWORKS)}"
    if not recipe.assembly.whole:
        yield f"assembly.kind '{recipe.assembly.kind}' is fitted to the cohort, and nothing accounts for that. Choose whole"
    if recipe.engine.accumulation != 1:
        yield (
            f"engine.accumulation is {recipe.engine.accumulation}: patients are accumulated before DeepSpeed, and how many"
            " go through the network at once follows from memory. Set it to 1"
        )
    if recipe.experts.groups != 1:
        yield f"experts.groups is {recipe.experts.groups}: groups side by side are not tested. Set it to 1, or use jobs with --only"
    if recipe.engine.offload != "none":
        yield f"engine.offload '{recipe.engine.offload}' is not tested. Set it to none"


def of_network(network: nn.Module) -> Iterator[str]:
    """Reasons why a network cannot be trained privately."""
    for name, module in network.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield f"{name or 'the network'} is a {kind}: it mixes the patients of a batch, so no contribution has a bound. Use a group norm"
        elif getattr(module, "p", 0.0) and isinstance(module, nn.modules.dropout._DropoutNd):
            yield f"{name or 'the network'} is a {kind}: what it drops follows from how many patients came before. Set it to 0"
        elif getattr(module, "track_running_stats", False):
            yield f"{name or 'the network'} is a {kind} with running statistics, which nothing accounts for. Switch them off"
