"""``volgen train``: a cohort in, a bank of denoisers out; the same command continues a run that was stopped.

Several jobs may train one run at the same time, and the ranks of one job may fall into groups: each takes networks that nobody else has.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from volgen.commands.train import begin, card, parts, size
from volgen.commands.train.crew import work
from volgen.core import ledger as ledgers
from volgen.core.errors import UserError
from volgen.core.folder import LOCK
from volgen.core.lock import Lock, holder
from volgen.core.manifest import FILES, Provenance, checksums, files_in
from volgen.core.progress import say
from volgen.core.protocols import Pulse
from volgen.core.run_files import BOARD, DECISIVE, ENSEMBLE, FOR_TRAINING, WEIGHTS, of_expert
from volgen.data.store import Store
from volgen.experts import ensemble
from volgen.experts.ensemble import Ensemble, ExpertRecord
from volgen.experts.plan import Phase, select
from volgen.models.denoiser import Preconditioner
from volgen.origin.start import Start
from volgen.parallel import launch as launches
from volgen.parallel.group import Group
from volgen.parallel.split import Partners, group_of, split
from volgen.parallel.watch import watch
from volgen.recipe import Recipe
from volgen.runs.fitted import check_all
from volgen.runs.leftovers import tidy
from volgen.runs.paths import Paths
from volgen.runs.queue import Queue
from volgen.runs.record import PhaseRecord
from volgen.runs.trained import open_run
from volgen.training import metrics
from volgen.training.interrupt import Interrupt
from volgen.training.together import WAIT, Pulses, on_chief, when_ready

FINISHED, UNFITTED = "finished", "unfitted"


def train(recipe: Recipe, *, dry_run: bool = False, only: str | None = None) -> Path:
    """Trains the experts of a recipe, or continues where the run was stopped.

    Args:
        recipe: the whole configuration.
        dry_run: only build the network without memory and print sizes; needs no store.
        only: a half-open range of experts such as ``8:16``, or ``shared``; other jobs train the others. All by default.

    Returns:
        The run directory.

    Raises:
        UserError: the store or the range does not fit, the directory holds another run, or training diverged.
        SystemExit: a signal arrived (:mod:`volgen.core.exit_codes` has the numbers).
    """
    phases = recipe.phases()
    wanted = phases if only is None else select(phases, only)
    if dry_run:
        print(size.report(recipe))
        return recipe.directory
    launch = launches.discover()
    launches.publish(launch)
    for variant in recipe.variants:
        _check_batch(variant, group_of(launch, recipe.experts.groups)[1].world_size)
    store = Store.open(recipe.data.store)
    begin.check_run(recipe, store)
    # Ranks must not answer this one by one: another job may finish the run in between.
    if launch.world_size == 1 and (recipe.directory / ENSEMBLE).exists():
        open_run(recipe.directory).verify()
        say(f"{recipe.directory} is finished; nothing to do. {_void(recipe)}{_next(recipe)}")
        return recipe.directory
    begin.check(recipe, store)
    start, engine = recipe.start.build(recipe, store, open_run), recipe.engine
    world = Group(launch, launches.take_part(launch, engine.hung_after + engine.dead_after))
    say(f"Training in {recipe.directory} with {launch} on {world.device.type}.")
    with (
        watch(launch, world, engine.dead_after, engine.hung_after) as pulse,
        Interrupt(watch_parent=launch.world_size > 1) as interrupt,
    ):
        inputs = {"store": str(store.path), "fingerprint": store.fingerprint, **begin.told_of(recipe, store), **start.inputs}
        provenance = Provenance("train", recipe.model_dump(mode="json"), inputs, recipe.seed)
        preconditioner = _prepare(recipe, store, start, provenance, world, interrupt, pulse)
        if preconditioner is UNFITTED:
            first = [phase for phase in wanted if phase.name in recipe.build().needs]
            work(recipe, store, recipe.preconditioner.blank(recipe.grid, 1), phases, first, world, interrupt, pulse, start)
            preconditioner = _prepare(recipe, store, start, provenance, world, interrupt, pulse)
        if preconditioner is None:
            say(f"{recipe.directory} is finished; nothing to do. {_void(recipe)}{_next(recipe)}")
            return recipe.directory
        fitted: Preconditioner = preconditioner

        def train_with(group: Group, pulse: Pulse, wanted: Sequence[Phase]) -> Queue:
            return work(recipe, store, fitted, phases, wanted, group, interrupt, pulse, start)

        def finish_with(group: Group, pulse: Pulse) -> None:
            queue = train_with(group, pulse, wanted)
            on_chief(group, lambda: _finish(recipe, phases, queue, provenance))

        if recipe.experts.groups == 1:
            finish_with(world, pulse)
        else:
            shared = [phase for phase in wanted if phase.index is None]
            if shared and recipe.shared_by_all(world.world_size):
                # Before there is a shared network no expert can be trained, so all ranks train that together.
                train_with(world, pulse, shared)
            group = Group(split(launch, recipe.experts.groups, engine.hung_after + engine.dead_after), world.device)
            say(f"{recipe.experts.groups} groups train experts side by side; ranks in each: {group.world_size}.")
            with Partners(launch, interrupt.tell) as partners:
                finish_with(group, Pulses(pulse, partners))
    return recipe.directory


def _prepare(recipe: Recipe, store: Store, start: Start, provenance: Provenance, group: Group, interrupt: Interrupt, pulse: Pulse) -> Any:
    """What comes before the first network, done by whoever is first while others wait.

    Returns:
        The fitted preconditioner; None if the run is finished meanwhile; :data:`UNFITTED` if it is fitted to what networks make that are
        not finished.
    """
    root, said = recipe.directory, ""
    with ExitStack() as held:

        def enter() -> str:
            nonlocal said
            with begin.nothing_left(root):
                lock = Lock.take(root / LOCK)
                if lock is None:
                    if not said:
                        said = f"Waiting for {holder(root / LOCK) or 'another process'}, which prepares this run."
                        say(said)
                    return WAIT
                held.enter_context(lock)
                if (root / ENSEMBLE).exists():
                    begin.check_run(recipe, store)  # whoever had the lock may have trained another run
                    open_run(root).verify()
                    return FINISHED
                begin.begin(recipe, store, start, provenance)
                paths = Paths(root)
                missing = any(PhaseRecord.read(paths.phase(name)) is None for name in recipe.build().needs)
                return UNFITTED if missing else ""

        found = when_ready(group, enter, interrupt, pulse)
        if found:
            return None if found == FINISHED else UNFITTED
        return parts.fit_preconditioner(recipe, store, root, group, start)


def _finish(recipe: Recipe, phases: Sequence[Phase], queue: Queue, provenance: Provenance) -> None:
    """Whoever trains the last expert writes ``ensemble.json``, which marks the run as finished."""
    paths = Paths(recipe.directory)
    if not queue.complete:
        missing = len(phases) - len(queue.records)
        say(f"Done here; {missing} of {len(phases)} networks of {paths.root} are for other jobs to finish.")
        return
    with Lock.wait(paths.root / LOCK):
        if (paths.root / ENSEMBLE).exists():
            return
        grid, records = recipe.schedule.grid(), queue.records
        for phase in phases:
            records[phase.name].check(paths.weights(phase.name))
        check_all(paths.root, f"delete {FOR_TRAINING}, if it is there, and start again: all of it will be fitted again")
        experts = [
            ExpertRecord(
                phase.index, phase.span.low, phase.span.high, paths.weights(phase.name).relative_to(paths.root).as_posix(), record.sha256,
                record.parameters, record.steps, record.validation_loss, recipe.made_of(phase),
            )
            for phase in phases
            if phase.index is not None and (record := records[phase.name])
        ]  # fmt: skip
        tidy(paths.root, quiet=True)
        steps = {phase.name: records[phase.name].steps for phase in phases}
        metrics.put_in_order(paths.root, [*steps], steps, {phase.name: records[phase.name].metrics for phase in phases})
        recipe.privacy.build(recipe).finish()
        card.write(recipe, experts)
        ordered = tuple(sorted(experts, key=lambda expert: expert.index))
        first = [of_expert(name, WEIGHTS) for name in recipe.build().needs]
        _seal(paths, Ensemble(ordered, min(grid), max(grid), tuple(grid)), records, provenance, first)
    say(f"{paths.root} is finished: {len(experts)} experts. {_next(recipe)}")


def _void(recipe: Recipe) -> str:
    """That a finished run's ledger does not count, if it does not."""
    claim = ledgers.read(recipe.directory)
    return f"It has no privacy guarantee: {claim['why']}. Train it anew under another `name`. " if "void" in claim else ""


def _seal(
    paths: Paths, bank: Ensemble, records: Mapping[str, PhaseRecord], provenance: Provenance, first: Sequence[str]
) -> None:  # fmt: skip
    """Writes the manifest with the checksums of everything, and ``ensemble.json`` with those of all that a sample depends on.

    Args:
        paths: the run's directory and the folders of its networks.
        bank: the run's experts.
        records: what is known of the training of each network.
        provenance: becomes the manifest.
        first: weights of networks that are no experts, and that all experts need.
    """
    root = paths.root
    bank = replace(bank, files=checksums(root, [*(name for name in DECISIVE if (root / name).is_file()), *first]))
    # Weights are not read again: damage since would be signed for.
    weights = {paths.weights(name).relative_to(root).as_posix(): record.sha256 for name, record in records.items()}
    listed = [name for name in files_in(root) if not name.startswith(f"{BOARD}/") and name != ENSEMBLE]
    files = checksums(root, listed, {**weights, **bank.files})
    files[ENSEMBLE] = hashlib.sha256(ensemble.text(bank).encode()).hexdigest()
    provenance.write(root, state="finished", steps=sum(record.steps for record in records.values()), **{FILES: files})
    ensemble.write(root / ENSEMBLE, bank)


def _next(recipe: Recipe) -> str:
    """What people do with a finished run, for a shell."""
    return f"Next: volgen sample {shlex.quote(str(recipe.directory))} --out {shlex.quote(f'samples-{recipe.name}')} --count 4 --seed 0"


def _check_batch(recipe: Recipe, world_size: int) -> None:
    shares = world_size * recipe.engine.accumulation
    if recipe.data.batch_size % shares:
        found = f"{recipe.data.batch_size} cannot be shared by {world_size} ranks x {recipe.engine.accumulation} micro-batches"
        raise UserError("data.batch_size", found, f"a multiple of {shares}")
