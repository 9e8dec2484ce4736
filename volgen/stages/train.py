"""``volgen train``: a cohort in, a bank of denoisers out; the same command continues a run that was stopped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from volgen.core.config import dump_yaml
from volgen.core.errors import UserError
from volgen.core.files import atomic_path, read_json, sha256, write_json, write_text
from volgen.core.geometry import Geometry
from volgen.core.manifest import Provenance
from volgen.core.progress import say
from volgen.core.protocols import Denoiser
from volgen.core.rng import generator
from volgen.data.store import Store
from volgen.data.stream import Batch, Stream
from volgen.experts import ensemble
from volgen.experts.ensemble import Ensemble, ExpertRecord
from volgen.experts.plan import Phase, plan
from volgen.models.denoiser import PreconditionedDenoiser, Preconditioner
from volgen.parallel import launch as launches
from volgen.parallel.engine import Engine
from volgen.parallel.group import Group
from volgen.parallel.precision import InPrecision
from volgen.recipe import Recipe
from volgen.stages import _train_size
from volgen.training import checkpoint, run
from volgen.training.interrupt import Interrupt, Interrupted
from volgen.training.loop import WEIGHTS, Task, Trainer
from volgen.training.loss import Objective, Weight
from volgen.training.metrics import MetricsFile, NoMetrics
from volgen.training.protocols import Ranks
from volgen.training.run import PhaseRecord
from volgen.training.stopping import Stopping
from volgen.training.validation import Validator

PRECONDITIONER = "preconditioner.safetensors"


@dataclass(frozen=True)
class Paths:
    """Files of a run directory."""

    root: Path

    def phase(self, name: str) -> Path:
        """Folder of an expert or of the shared network."""
        return self.root / "experts" / name

    def weights(self, name: str) -> Path:
        """Exported weights of a phase."""
        return self.phase(name) / WEIGHTS


def train(recipe: Recipe, *, dry_run: bool = False) -> Path:
    """Trains every expert of a recipe, or continues where the run was stopped.

    Args:
        recipe: the whole configuration.
        dry_run: only build the network without memory and print sizes; needs no store.

    Returns:
        The run directory.

    Raises:
        UserError: the store does not fit, the directory holds another run, or training diverged.
        SystemExit: 128 plus the signal, after SIGINT or SIGTERM.
    """
    if dry_run:
        print(_train_size.report(recipe))
        return recipe.directory
    launch = launches.discover()
    launches.publish(launch)
    _check_batch(recipe, launch.world_size)
    store = Store.open(Path(recipe.data.store))
    run.check_same(recipe.directory, recipe.model_dump(mode="json"))
    if (recipe.directory / ensemble.NAME).exists():
        say(f"{recipe.directory} is finished; nothing to do.")
        return recipe.directory
    group = Group(launch, launches.start(launch))
    say(f"Training in {recipe.directory} with {launch} on {group.device.type}.")
    with ExitStack() as held:
        _on_chief(group, lambda: held.enter_context(run.locked(recipe.directory)))
        return _train(recipe, store, group)


def _train(recipe: Recipe, store: Store, group: Group) -> Path:
    paths = Paths(recipe.directory)
    inputs = {"store": str(store.path), "fingerprint": store.fingerprint}
    provenance = Provenance("train", recipe.model_dump(mode="json"), inputs, recipe.seed)
    _on_chief(group, lambda: _begin(recipe, store, paths, provenance))
    preconditioner = _preconditioner(recipe, store, paths, group)
    phases = plan(recipe.experts, recipe.schedule.grid())
    records = {phase.name: record for phase in phases if (record := PhaseRecord.read(paths.phase(phase.name)))}
    with (
        closing(Stream(store, "train", recipe.data, recipe.seed, group.rank, group.world_size)) as stream,
        closing(_metrics(paths, phases, records, group)) as metrics,
        Interrupt(watch_parent=group.world_size > 1) as interrupt,
    ):
        learn = _objective(stream, preconditioner)
        validator = _validator(recipe, store, preconditioner, group)
        trainer = Trainer(
            recipe.optimiser, recipe.ema, _on_device(stream, group.device), recipe.data.batch_size, validator,
            recipe.engine.checkpoint_every, recipe.seed, group, metrics, interrupt,
        )  # fmt: skip
        try:
            for phase in phases:
                if phase.name not in records:
                    records[phase.name] = _phase(recipe, phase, paths, learn, trainer, sum(r.steps for r in records.values()))
        except Interrupted as interrupted:
            say(f"{interrupted}; a checkpoint is written. The same command continues this run.")
            raise SystemExit(interrupted.exit_code) from None
    _on_chief(group, lambda: _finish(recipe, phases, records, paths, provenance))
    return paths.root


def _phase(
    recipe: Recipe, phase: Phase, paths: Paths, learn: Callable[[Engine], Objective], trainer: Trainer, steps_before: int
) -> PhaseRecord:
    """Trains one network and marks it as finished."""
    folder, group = paths.phase(phase.name), trainer.ranks
    network = _network(recipe, phase.name)
    if phase.start is not None:
        network.load_state_dict(load_file(paths.weights(phase.start)))
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    micro_batch = recipe.data.batch_size // (group.world_size * recipe.engine.accumulation)
    engine = Engine(
        network, recipe.engine, micro_batch,
        betas=recipe.optimiser.betas, weight_decay=recipe.optimiser.weight_decay, gradient_clip=recipe.optimiser.gradient_clip,
    )  # fmt: skip
    title = "shared network" if phase.index is None else f"expert {phase.index} of {recipe.experts.count}"
    title += f" (sigma {phase.points[0]:.3g} to {phase.points[-1]:.3g})"
    task = Task(
        phase.name, title, lambda quantile: phase.sigma(quantile, recipe.experts.on_grid), folder, steps_before, phase.start is not None
    )
    stopping = Stopping(recipe.stopping, phase.max_steps or recipe.stopping.max_steps)
    try:
        outcome = trainer.run(task, engine, learn(engine), stopping)
    finally:
        engine.destroy()
        gc.collect()  # an engine is a web of hooks that point at each other
    group.barrier()
    record = PhaseRecord(outcome.steps, outcome.best_step, outcome.validation_loss, parameters, sha256(folder / WEIGHTS))
    _on_chief(group, lambda: record.write(folder))
    if group.rank == 0:
        checkpoint.remove(folder)
    say(f"{title}: {outcome.steps} steps, validation loss {outcome.validation_loss:.5f} at step {outcome.best_step}.")
    return record


def _begin(recipe: Recipe, store: Store, paths: Paths, provenance: Provenance) -> None:
    """Everything that can be written before training."""
    manifest = paths.root / "manifest.json"
    if manifest.exists():
        before = read_json(manifest, "the manifest of a run").get("inputs", {}).get("fingerprint")
        if before != store.fingerprint:
            raise UserError(str(store.path), "is not the cohort this run began with", "the same cohort", "give the run another `name`")
    write_text(paths.root / run.CONFIG, dump_yaml(recipe))
    write_json(paths.root / "privacy_ledger.json", recipe.privacy.ledger())
    records = store.split("train")
    examples = (store.read_unit(record) for record in records[:8])
    Geometry.of_cohort(recipe.data.shape, [r.affine for r in records], [r.intensity for r in records], examples).write(paths.root)
    provenance.write(paths.root, state="training")


def _finish(recipe: Recipe, phases: Sequence[Phase], records: dict[str, PhaseRecord], paths: Paths, provenance: Provenance) -> None:
    """``ensemble.json``, which marks the run as finished, comes last."""
    grid = recipe.schedule.grid()
    experts = [
        ExpertRecord(
            phase.index, phase.span.low, phase.span.high, paths.weights(phase.name).relative_to(paths.root).as_posix(), record.sha256,
            record.parameters, record.steps, record.validation_loss,
        )
        for phase in phases
        if phase.index is not None and (record := records[phase.name])
    ]  # fmt: skip
    provenance.write(paths.root, state="finished", steps=sum(record.steps for record in records.values()))
    ordered = tuple(sorted(experts, key=lambda expert: expert.index))
    ensemble.write(paths.root / ensemble.NAME, Ensemble(ordered, min(grid), max(grid), tuple(grid)))
    say(f"{paths.root} is finished: {len(experts)} experts.")


def _on_chief(group: Ranks, work: Callable[[], object]) -> None:
    """Rank 0 does some work while the others wait; if it fails, they end quietly instead of waiting for ever."""
    failure: BaseException | None = None
    if group.rank == 0:
        try:
            work()
        except BaseException as error:
            failure = error
    failed = group.sum([float(failure is not None)])[0]
    if failure is not None:
        raise failure
    if failed:
        raise SystemExit(2)


def _check_batch(recipe: Recipe, world_size: int) -> None:
    shares = world_size * recipe.engine.accumulation
    if recipe.data.batch_size % shares:
        found = f"{recipe.data.batch_size} cannot be shared by {world_size} ranks x {recipe.engine.accumulation} micro-batches"
        raise UserError("data.batch_size", found, f"a multiple of {shares}")


def _preconditioner(recipe: Recipe, store: Store, paths: Paths, group: Group) -> Preconditioner:
    """Fitted once, on rank 0, to training volumes as they are; from then on read from the run."""
    path = paths.root / PRECONDITIONER

    def fit() -> None:
        if path.exists():
            return
        with closing(Stream(store, "train", recipe.data, recipe.seed)) as stream:
            say(f"Fitting the '{recipe.preconditioner.kind}' preconditioner to {len(stream)} volumes.")
            try:
                fitted = recipe.preconditioner.fit(stream.volumes, [record.patient for record in stream.records], recipe.seed)
            except ValueError as error:
                raise UserError(str(store.path), str(error), "more people, or another preconditioner.kind") from None
        with atomic_path(path) as temporary:
            save_file(fitted.state(), temporary)

    _on_chief(group, fit)
    restored: Preconditioner = recipe.preconditioner.restore(load_file(path)).to(group.device)
    return restored


def _objective(stream: Stream, preconditioner: Preconditioner) -> Callable[[Engine], Objective]:
    """Each training volume is denoised with statistics that do not know its person, as a new person's will be."""
    numbers = {record.id: number for number, record in enumerate(stream.records)}

    def learn(engine: Engine) -> Objective:
        def objective(ids: Sequence[str]) -> tuple[Denoiser, Weight]:
            held_out = preconditioner.held_out([numbers[name] for name in ids])
            return PreconditionedDenoiser(engine, held_out), held_out.weight

        return objective

    return learn


def _network(recipe: Recipe, name: str) -> nn.Module:
    """The network of one phase on the CPU; its random weights are a function of the seed and the phase."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(recipe.seed, "weights", name).initial_seed())
        network: nn.Module = recipe.network.build(inputs=recipe.preconditioner.inputs, checkpointing=recipe.engine.activation_checkpointing)
    return network


def _validator(recipe: Recipe, store: Store, preconditioner: Preconditioner, group: Group) -> Validator:
    with closing(Stream(store, "validation", recipe.data, recipe.seed)) as stream:
        volumes = stream.validation_volumes(recipe.stopping.validation_volumes)
    network = _network(recipe, "validation").to(group.device)
    denoise = PreconditionedDenoiser(InPrecision(network, recipe.engine), preconditioner)
    return Validator(network, denoise, preconditioner.weight, volumes, recipe.stopping.validation_draws, recipe.seed, group)


def _on_device(stream: Stream, device: torch.device) -> Callable[[int], Batch]:
    def batch(step: int) -> Batch:
        found = stream.batch(step)
        return replace(found, x_BCXYZ=found.x_BCXYZ.to(device, non_blocking=True))

    return batch


def _metrics(paths: Paths, phases: Sequence[Phase], records: dict[str, PhaseRecord], group: Group) -> MetricsFile | NoMetrics:
    """Where numbers go: on rank 0 the file, cut back to where training goes on."""
    if group.rank:
        return NoMetrics()
    current = next((phase.name for phase in phases if phase.name not in records), None)
    step = checkpoint.step_of(checkpoint.latest(paths.phase(current))) if current else 0
    return MetricsFile(paths.root, records, current, step)
