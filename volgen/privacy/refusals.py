"""What differential privacy cannot be had with, and why: everything that is not known to be right is refused."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from volgen.core.registry import config_class, kinds
from volgen.models import assemblies, networks, preconditioners
from volgen.privacy.plan import Run

METHODS = "volgen.methods"
"""The registry of methods, which is above this package."""


def of_recipe(recipe: Run) -> Iterator[str]:
    """Reasons why a run cannot be trained privately."""
    if recipe.optimiser.gradient_clip:
        yield (
            f"optimiser.gradient_clip is {recipe.optimiser.gradient_clip:g}: the engine would clip the sum after the noise;"
            " privacy.clip_norm clips each patient. Set it to 0"
        )
    if recipe.optimiser.other:
        yield f"optimiser.algorithm {recipe.optimiser.algorithm} is not tested with noised gradients. Use adamw"
    if recipe.optimiser.matrix_learning_rate:
        yield "optimiser.matrix_learning_rate: Muon is not tested with noised gradients. Set it to 0"
    if recipe.stopping.min_steps != recipe.stopping.max_steps:
        yield (
            f"stopping.min_steps ({recipe.stopping.min_steps}) differs from max_steps ({recipe.stopping.max_steps}): when to stop would"
            " depend on validation people, whom nothing protects. Set both to a fixed number of steps"
        )
    # What a component does not say of itself is taken to be the worse.
    if getattr(recipe.preconditioner, "fitted", True) and not recipe.start.brings_fit:
        choice = _choice(preconditioners.__name__, "fitted", is_so=False)
        yield (
            f"preconditioner.kind '{recipe.preconditioner.kind}' is fitted to the cohort, and nothing accounts for that."
            f" Begin from a public run (start.kind public), whose fit costs nothing, or choose one of {choice}"
        )
    if not getattr(recipe.method, "patients_apart", False):
        choice = _choice(METHODS, "patients_apart", is_so=True)
        yield f"method.kind '{recipe.method.kind}' fits to people or mixes them, and nothing accounts for that. Choose {choice}"
    first = getattr(recipe.method, "first", "")
    if first and not recipe.start.brings_fit:
        yield (
            f"method.kind '{recipe.method.kind}' trains {first} with the cohort first, and nothing accounts for that."
            f" Begin from a public run (start.kind public), whose {first.split()[-1]} is taken over as it is"
        )
    if not getattr(recipe.network, "patients_apart", False):
        choice = _choice(networks.__name__, "patients_apart", is_so=True)
        yield f"network.kind '{recipe.network.kind}' is not tested. Choose one of {choice}"
    if not getattr(recipe.objective, "patients_apart", True):
        yield f"objective.kind '{recipe.objective.kind}' is not tested with gradients of single patients. Use denoising"
    for condition in recipe.conditions:
        if not condition.settled:
            yield f"conditions: what '{condition.name}' leaves out would follow from people whom this protects. State all of it"
    if getattr(recipe.assembly, "fitted", True):
        choice = _choice(assemblies.__name__, "fitted", is_so=False)
        yield f"assembly.kind '{recipe.assembly.kind}' is fitted to the cohort, and nothing accounts for that. Choose {choice}"
    if recipe.engine.accumulation != 1:
        yield (
            f"engine.accumulation is {recipe.engine.accumulation}: patients are accumulated before DeepSpeed, and how many"
            " go through the network at once follows from memory. Set it to 1"
        )
    if recipe.experts.groups != 1:
        yield f"experts.groups is {recipe.experts.groups}: groups side by side are not tested. Set it to 1, or use jobs with --only"
    if recipe.experts.own_batches:
        yield "experts.models have a batch_size of their own: the ledger has one sampling rate. Leave it out of them"
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


def _choice(package: str, says: str, *, is_so: bool) -> str:
    """Names of the kinds of a folder whose configuration says that it is so, or that it is not."""
    return ", ".join(kind for kind in kinds(package) if getattr(config_class(package, kind), says, None) is is_so)
