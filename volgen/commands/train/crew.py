"""Ranks that train together, one network after another: all ranks of a launch, or one of its groups."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from volgen.commands.train import parts
from volgen.core.exit_codes import SAVED
from volgen.core.files import sha256
from volgen.core.progress import say
from volgen.core.protocols import Pulse
from volgen.core.run_files import WEIGHTS
from volgen.data.store import Store
from volgen.data.stream import Stream
from volgen.experts.plan import Phase
from volgen.methods import Fitted
from volgen.models.denoiser import Preconditioner
from volgen.models.space import VOXELS
from volgen.origin.start import Start
from volgen.parallel.group import Group
from volgen.privacy.plan import Regime
from volgen.recipe import Recipe
from volgen.runs.paths import Paths
from volgen.runs.queue import Patience, Queue, Wait
from volgen.runs.record import PhaseRecord
from volgen.training import checkpoint, relaunch
from volgen.training.interrupt import Interrupt, Interrupted
from volgen.training.judge import Judge
from volgen.training.loop import Task, Trainer
from volgen.training.metrics import Metrics, MetricsFile, NoMetrics
from volgen.training.together import WAIT, Pulses, on_chief, told_to_stop, when_ready

IN_VAIN = "in vain"
"""What the chief says in place of a phase where nobody trains what is waited for."""


def work(
    recipe: Recipe, store: Store, preconditioner: Preconditioner, phases: Sequence[Phase], wanted: Sequence[Phase], group: Group,
    interrupt: Interrupt, pulse: Pulse, start: Start,
) -> Queue:  # fmt: skip
    """Trains all of ``wanted`` that nobody else trains, and waits for the rest. A collective call.

    Returns:
        The queue, which knows what is finished; for rank 0.

    Raises:
        UserError: training diverged, or something to start from is damaged.
        SystemExit: a signal arrived, and a checkpoint has been written if there was anything to save; or nobody trains what is needed.
    """
    paths = Paths(recipe.directory)
    with (
        closing(NoMetrics() if group.rank else MetricsFile(paths.root)) as metrics,
        closing(Queue(paths, phases, wanted)) as queue,
    ):
        regime: Regime = recipe.privacy.build(recipe)
        on_chief(group, lambda: regime.check({name: record.steps for name, record in queue.records.items()}))
        pulses = Pulses(pulse, queue)
        with closing(_Equipment(recipe, store, preconditioner, group, metrics, interrupt, pulses)) as equipment:
            crew = _Crew(recipe, paths, queue, equipment, group, interrupt, pulses, {phase.name: phase for phase in wanted}, start)
            try:
                while phase := crew.turn():
                    crew.train(phase)
            except Interrupted as interrupted:
                say(f"{interrupted}; a checkpoint is written. The same command continues this run.")
                raise SystemExit(interrupted.exit_code) from None
        return queue


@dataclass(frozen=True)
class _Tools:
    """What networks of one model are trained with.

    Attributes:
        recipe: the model's recipe.
        regime: how it trains.
        trainer: trains.
        judges: says who watches a phase.
        fitted: what was fitted to the cohort.
        settle: fits what is fitted to people once a network is trained, in the file of its weights.
    """

    recipe: Recipe
    regime: Regime
    trainer: Trainer
    judges: Callable[[Phase], Judge]
    fitted: Fitted
    settle: Callable[[Phase, Path], None]


class _Equipment:
    """Has the tools for a network: made when the first of its model is trained, and kept until one of another is, or one without noise."""

    def __init__(
        self, recipe: Recipe, store: Store, preconditioner: Preconditioner, group: Group, metrics: Metrics, interrupt: Interrupt,
        pulse: Pulse,
    ) -> None:  # fmt: skip
        self._recipe, self._store, self._preconditioner, self._group = recipe, store, preconditioner, group
        self._metrics, self._interrupt, self._pulse = metrics, interrupt, pulse
        self._held = ExitStack()
        self._made_for: tuple[int, bool] | None = None

    def of(self, phase: Phase) -> _Tools:
        """The tools for a phase. A collective call."""
        wanted = phase.model, bool(phase.points)
        if wanted != self._made_for:
            self.close()
            self._tools, self._made_for = self._make(self._recipe.of(phase), phase), wanted
        return self._tools

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._held.close()
        self._made_for = None

    def _make(self, recipe: Recipe, phase: Phase) -> _Tools:
        group, regime = self._group, recipe.privacy.build(recipe)
        stream = Stream(self._store, "train", recipe.data, recipe.seed, group.rank, group.world_size, recipe.cut, recipe.level)
        self._held.callback(stream.close)
        judges = regime.judges(group, lambda: parts.make_validator(recipe, phase, self._store, group))
        trainer = Trainer(
            recipe.optimiser, recipe.ema, regime.gradient(stream, group, self._interrupt, self._pulse), recipe.engine.checkpoint_every,
            recipe.seed, group, regime.metrics(self._metrics), self._pulse,
        )  # fmt: skip
        space = parts.space(recipe, group) if phase.needs else VOXELS
        fitted = parts.fitted(recipe, self._store, self._preconditioner, space)

        def settle(phase: Phase, path: Path) -> None:
            parts.settle(recipe, phase, self._store, path, group.device)

        return _Tools(recipe, regime, trainer, judges, fitted, settle)


@dataclass(frozen=True)
class _Crew:
    recipe: Recipe
    paths: Paths
    queue: Queue
    equipment: _Equipment
    group: Group
    interrupt: Interrupt
    pulse: Pulse
    named: Mapping[str, Phase]
    start: Start

    def turn(self) -> Phase | None:
        """The next phase, which now belongs to these ranks; None: all are finished.

        Raises:
            SystemExit: a signal has arrived, or nobody trains what the rest starts from; there is nothing to save.
        """
        patience = Patience()

        def look() -> str:
            found = self.queue.next()
            if isinstance(found, Wait):
                return WAIT if patience.bear(found) else IN_VAIN
            return found.name if found else ""

        name = when_ready(self.group, look, self.interrupt, self.pulse)
        if name == IN_VAIN:
            raise SystemExit(SAVED)  # another time: the machine may be what the job that is waited for is waiting for
        if name and (stop := told_to_stop(self.group, self.interrupt)):
            # In the last step of the network before, or since.
            before = f"{Interrupted(stop)} before {self.named[name].label}; what came before it is finished"
            say(f"{before}. The same command continues this run.")
            raise SystemExit(Interrupted(stop).exit_code)
        return self.named[name] if name else None

    def train(self, phase: Phase) -> None:
        """Trains one network and marks it as finished."""
        on_chief(self.group, lambda: self._check_needs(phase))
        tools, group = self.equipment.of(phase), self.group
        recipe, regime, trainer = tools.recipe, tools.regime, tools.trainer
        folder = self.paths.phase(phase.name)
        network = self._network(phase)
        parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
        engine = regime.engine(network, group, parts.at_once(recipe))
        label = phase.label if phase.index is None else f"{phase.label} of {recipe.experts.count}"
        title = f"{label}{phase.levels}"
        task = Task(phase.name, title, folder, _first_batch(self.recipe, phase), recipe.warm(phase))
        trainer = replace(trainer, optimiser=recipe.optimiser.shared()) if phase.shared else trainer
        try:
            outcome = trainer.run(task, engine, recipe.build().objective(phase, tools.fitted), tools.judges(phase))
        finally:
            engine.destroy()
            gc.collect()  # an engine is a web of hooks that point at each other
        group.barrier()

        def finish() -> None:
            tools.settle(phase, folder / WEIGHTS)
            digest = sha256(folder / WEIGHTS)
            record = PhaseRecord(outcome.steps, outcome.best_step, outcome.validation_loss, parameters, digest, outcome.metrics)
            self.queue.done(phase, record)
            relaunch.saved()
            checkpoint.remove(folder)

        on_chief(group, finish)
        loss = outcome.validation_loss
        scored = "" if loss is None else f", validation loss {loss:.5f} at step {outcome.best_step}"
        say(f"{title}: {outcome.steps} steps{scored}.")

    def _check_needs(self, phase: Phase) -> None:
        """Makes sure that the networks that a phase needs are as they were trained, and good enough. For rank 0."""
        named = {other.name: other for other in self.recipe.phases()}
        for name in phase.needs:
            self.queue.records[name].check(self.paths.weights(name))
            self.recipe.build().passes(named[name], self.queue.records[name].validation_loss)

    def _network(self, phase: Phase) -> nn.Module:
        weights = self.start.weights(phase)
        if phase.start is not None:
            start, path = phase.start, self.paths.weights(phase.start)
            on_chief(self.group, lambda: self.queue.records[start].check(path))
            weights = load_file(path)
        return self.recipe.of(phase).build().network(phase, weights)


def _first_batch(recipe: Recipe, phase: Phase) -> int:
    """Where in the data stream a phase of a run begins: a matter of the plan alone, not of how long those before it were really trained."""
    before = takewhile(lambda other: other.name != phase.name, recipe.phases())
    return sum(recipe.rule(other).max_steps for other in before)
