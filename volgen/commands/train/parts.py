"""What ``volgen train`` is put together from: data, preconditioner, network and validation of one recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn

from volgen.core.errors import UserError
from volgen.core.files import atomic_path
from volgen.core.progress import say
from volgen.core.rng import seeded
from volgen.core.run_files import FOR_TRAINING
from volgen.data.store import Store
from volgen.data.stream import Stream
from volgen.experts.plan import Phase
from volgen.methods import Fitted
from volgen.models.assembly import Assembly
from volgen.models.condition import known
from volgen.models.denoiser import Preconditioner
from volgen.models.space import VOXELS, Domain
from volgen.origin.start import Start
from volgen.parallel.group import Group
from volgen.parallel.private_engine import Pass
from volgen.planning.patients import choose
from volgen.privacy.plan import AtOnce
from volgen.recipe import Recipe
from volgen.runs.fitted import check_all, check_unchanged, restore, restore_assembly, write
from volgen.runs.paths import Paths
from volgen.training.together import on_chief
from volgen.training.validation import Validator


def fit_preconditioner(recipe: Recipe, store: Store, root: Path, group: Group, start: Start) -> Preconditioner:
    """Fitted once, on rank 0, to training volumes as denoisers see them, or taken from a public run; from then on read from the run."""
    path = root / FOR_TRAINING

    def fit() -> None:
        if path.exists():
            return
        if public := start.fit():
            write(*public, root)
            return
        with closing(Stream(store, "train", recipe.data, recipe.seed, level=_coarsest(recipe))) as stream:
            people = [record.patient for record in stream.records]
            finest = [0 if recipe.data.interpolated else record.finest for record in stream.records]
            say(f"Fitting the '{recipe.preconditioner.kind}' preconditioner to {len(stream)} volumes.")
            seen = space(recipe, group)

            def volumes() -> Iterator[Tensor]:
                return (seen.encode(volume_XYZ[None, None])[0, 0] for volume_XYZ in stream.volumes())

            try:
                told = known(recipe.conditions, [record.about for record in stream.records])
                fitted = recipe.preconditioner.fit(volumes, people, recipe.seed, finest, told)
                assembly: Assembly = recipe.assembly.fit(stream.scans, people, recipe.seed)
            except ValueError as error:
                raise UserError(str(store.path), str(error), "more people, or other kinds of preconditioner and assembly") from None
        write(fitted, assembly, root)

    on_chief(group, fit)
    do = "delete this file: it will be fitted again"
    fitted = restore(recipe.preconditioner, path, do)
    check_unchanged(path, do)
    # Training needs no other file of the fit, but a run that has lost one could not be sampled from.
    again = f"delete {FOR_TRAINING}: both will be fitted again"
    restore_assembly(recipe.assembly, root, again)
    check_all(root, again)
    return fitted.to(group.device)


def _coarsest(recipe: Recipe) -> int:
    """Coarsest level of the run's experts: whoever is coarser teaches none."""
    return max(variant.level for variant in recipe.variants)


def space(recipe: Recipe, group: Group) -> Domain:
    """Where denoisers work, on the device of the ranks; of networks that are finished.

    Raises:
        UserError: nothing can be seen there.
    """
    method, paths = recipe.build(), Paths(recipe.directory)
    try:
        return method.space({name: load_file(paths.weights(name)) for name in method.needs}, group.device)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        where, do = str(paths.weights(method.needs[0])), "train it anew under another `name`, with more people or another optimiser"
        raise UserError(where, " ".join(str(error).split())[:200], "a network of which something can be made", do) from None


def fitted(recipe: Recipe, store: Store, preconditioner: Preconditioner, where: Domain = VOXELS) -> Fitted:
    """Each training volume is denoised with statistics that do not know its person, as a new person's will be.

    Those that a start has brought know nobody of the cohort.
    """
    records = [] if recipe.start.brings_fit else recipe.data.records(store, "train", _coarsest(recipe))
    numbers = {record.id: number for number, record in enumerate(records)}
    return Fitted(preconditioner, numbers, where)


def make_validator(recipe: Recipe, phase: Phase, store: Store, group: Group) -> Validator:
    """Scores weights of a phase, or of one with the same network, on a fixed choice of validation volumes."""
    with closing(Stream(store, "validation", recipe.data, recipe.seed, cut=recipe.cut, level=recipe.level)) as stream:
        volumes = stream.validation_volumes(recipe.stopping.validation_volumes, recipe.examples_of_each)
    method = recipe.build()
    with seeded(recipe.seed, "weights", "validation"):
        network = method.released(phase).to(group.device)
    return Validator(network, method.forward(network), volumes, recipe.stopping.validation_draws, recipe.seed, group)


def settle(recipe: Recipe, phase: Phase, store: Store, path: Path, device: torch.device) -> None:
    """Fits what a method fits to people once a network is trained, and puts it into the file of its weights."""
    with closing(Stream(store, "train", recipe.data, recipe.seed, level=recipe.level)) as stream:
        state = recipe.build().settled(phase, load_file(path), stream.volumes, device)
    if state is not None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(serialise({name: tensor.contiguous() for name, tensor in state.items()}))


def at_once(recipe: Recipe) -> AtOnce:
    """How many patients go through a network at once: as many as memory allows."""

    def choice(network: nn.Module, group: Group) -> Pass:
        chosen = choose(recipe, network, group)
        say(f"Private: {chosen.why}.")
        return chosen.at_once

    return choice
