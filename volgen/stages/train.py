"""``volgen train``: a cohort in, a bank of denoisers out; the same command continues a run that was stopped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from volgen.core.config import dump_yaml
from volgen.core.errors import UserError
from volgen.core.files import read_json, sha256, write_json, write_text
from volgen.core.geometry import Geometry
from volgen.core.manifest import Provenance
from volgen.core.progress import say
from volgen.data.store import Store
from volgen.data.stream import Stream
from volgen.experts import ensemble
from volgen.experts.ensemble import Ensemble, ExpertRecord
from volgen.experts.plan import Phase, plan
from volgen.parallel import launch as launches
from volgen.parallel.engine import Engine
from volgen.parallel.group import Group
from volgen.recipe import Recipe
from volgen.stages import _train_parts, _train_size
from volgen.stages._preconditioner_file import FOR_TRAINING
from volgen.training import checkpoint, run
from volgen.training.interrupt import Interrupt, Interrupted
from volgen.training.loop import WEIGHTS, Task, Trainer
from volgen.training.loss import Objective
from volgen.training.metrics import MetricsFile, NoMetrics
from volgen.training.run import PhaseRecord
from volgen.training.stopping import Stopping


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
    _check_cohort(recipe.directory, store)
    if (recipe.directory / ensemble.NAME).exists():
        say(f"{recipe.directory} is finished; nothing to do.")
        return recipe.directory
    group = Group(launch, launches.start(launch))
    say(f"Training in {recipe.directory} with {launch} on {group.device.type}.")
    with ExitStack() as held:
        _train_parts.on_chief(group, lambda: held.enter_context(run.locked(recipe.directory)))
        return _train(recipe, store, group)


def _train(recipe: Recipe, store: Store, group: Group) -> Path:
    paths = Paths(recipe.directory)
    inputs = {"store": str(store.path), "fingerprint": store.fingerprint}
    provenance = Provenance("train", recipe.model_dump(mode="json"), inputs, recipe.seed)
    _train_parts.on_chief(group, lambda: _begin(recipe, store, paths, provenance))
    preconditioner = _train_parts.fit_preconditioner(recipe, store, paths.root, group)
    phases = plan(recipe.experts, recipe.schedule.grid())
    records = {phase.name: record for phase in phases if (record := PhaseRecord.read(paths.phase(phase.name)))}
    with (
        closing(Stream(store, "train", recipe.data, recipe.seed, group.rank, group.world_size)) as stream,
        closing(_metrics(paths, phases, records, group)) as metrics,
        Interrupt(watch_parent=group.world_size > 1) as interrupt,
    ):
        learn = _train_parts.make_objective(stream, preconditioner)
        validator = _train_parts.make_validator(recipe, store, preconditioner, group)
        trainer = Trainer(
            recipe.optimiser, recipe.ema, _train_parts.batches(stream, group.device), recipe.data.batch_size, validator,
            recipe.engine.checkpoint_every, recipe.seed, group, metrics, interrupt,
        )  # fmt: skip
        try:
            for phase in phases:
                if phase.name not in records:
                    records[phase.name] = _phase(recipe, phase, paths, learn, trainer, records)
        except Interrupted as interrupted:
            say(f"{interrupted}; a checkpoint is written. The same command continues this run.")
            raise SystemExit(interrupted.exit_code) from None
    _train_parts.on_chief(group, lambda: _finish(recipe, phases, records, paths, provenance))
    return paths.root


def _phase(
    recipe: Recipe, phase: Phase, paths: Paths, learn: Callable[[Engine], Objective], trainer: Trainer, records: dict[str, PhaseRecord]
) -> PhaseRecord:
    """Trains one network and marks it as finished; ``records`` are of those before it."""
    steps_before = sum(record.steps for record in records.values())
    folder, group = paths.phase(phase.name), trainer.ranks
    network = _train_parts.build_network(recipe, phase.name)
    if phase.start is not None:
        before, weights = records[phase.start], paths.weights(phase.start)
        _train_parts.on_chief(group, lambda: before.check(weights))
        network.load_state_dict(load_file(weights))
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    micro_batch = recipe.data.batch_size // (group.world_size * recipe.engine.accumulation)
    engine = Engine(
        network, recipe.engine, micro_batch,
        betas=recipe.optimiser.betas, weight_decay=recipe.optimiser.weight_decay, gradient_clip=recipe.optimiser.gradient_clip,
        matrix_rate=recipe.optimiser.matrix_learning_rate / recipe.optimiser.learning_rate,
    )  # fmt: skip
    title = "shared network" if phase.index is None else f"expert {phase.index} of {recipe.experts.count}"
    title += f" (sigma {phase.points[0]:.3g} to {phase.points[-1]:.3g})"
    task = Task(
        phase.name, title, lambda quantile: phase.sigma(quantile, recipe.experts.on_grid), folder, steps_before, phase.start is not None
    )
    rule = recipe.stopping if phase.max_steps is None else recipe.stopping.fixed(phase.max_steps)
    stopping = Stopping(rule, rule.max_steps)
    try:
        outcome = trainer.run(task, engine, learn(engine), stopping)
    finally:
        engine.destroy()
        gc.collect()  # an engine is a web of hooks that point at each other
    group.barrier()
    record = PhaseRecord(outcome.steps, outcome.best_step, outcome.validation_loss, parameters, sha256(folder / WEIGHTS))
    _train_parts.on_chief(group, lambda: record.write(folder))
    if group.rank == 0:
        checkpoint.remove(folder)
    say(f"{title}: {outcome.steps} steps, validation loss {outcome.validation_loss:.5f} at step {outcome.best_step}.")
    return record


def _begin(recipe: Recipe, store: Store, paths: Paths, provenance: Provenance) -> None:
    """Everything that can be written before training."""
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
    (paths.root / FOR_TRAINING).unlink(missing_ok=True)
    provenance.write(paths.root, state="finished", steps=sum(record.steps for record in records.values()))
    ordered = tuple(sorted(experts, key=lambda expert: expert.index))
    ensemble.write(paths.root / ensemble.NAME, Ensemble(ordered, min(grid), max(grid), tuple(grid)))
    say(f"{paths.root} is finished: {len(experts)} experts.")


def _check_cohort(directory: Path, store: Store) -> None:
    """A run, finished or not, belongs to one cohort, wherever its store lies."""
    manifest = directory / "manifest.json"
    if manifest.exists():
        before = read_json(manifest, "the manifest of a run").get("inputs", {}).get("fingerprint")
        if before != store.fingerprint:
            raise UserError(str(store.path), "is not the cohort this run began with", "the same cohort", "give the run another `name`")


def _check_batch(recipe: Recipe, world_size: int) -> None:
    shares = world_size * recipe.engine.accumulation
    if recipe.data.batch_size % shares:
        found = f"{recipe.data.batch_size} cannot be shared by {world_size} ranks x {recipe.engine.accumulation} micro-batches"
        raise UserError("data.batch_size", found, f"a multiple of {shares}")


def _metrics(paths: Paths, phases: Sequence[Phase], records: dict[str, PhaseRecord], group: Group) -> MetricsFile | NoMetrics:
    """Where numbers go: on rank 0 the file, cut back to where training goes on."""
    if group.rank:
        return NoMetrics()
    current = next((phase.name for phase in phases if phase.name not in records), None)
    step = checkpoint.step_of(checkpoint.latest(paths.phase(current))) if current else 0
    return MetricsFile(paths.root, records, current, step)
