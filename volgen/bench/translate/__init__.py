"""Translations of people whom a run has not seen, beside those of a CycleGAN and of a straight line: what changes, and what comes back.

People of a split whose number in a column is below `--low` are translated to `--high`, such as from their own age to that of the old. What
a translation changes is read by a ridge regression that real training people taught: of the column itself, and of other columns of the
store's table, such as shares of structures. Beside it is what the same regression reads in real people of that difference. A person is
kept if no scan of anybody else is nearer to the translation than the person's own.

| method | what it does |
|---|---|
| the run's name | up the noise axis as what a person is, down as what is aimed at (volgen translate) |
| cyclegan | two generators and two critics, trained here on training people below `--low` and above `--high` |
| line | adds the difference times what a voxel changes with the column, by linear regression over training people |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from volgen.bench._shared.bootstrap import interval
from volgen.bench._shared.columns import Learnt, first_scans
from volgen.bench._shared.learner import Numbers, Pool
from volgen.bench.translate.cyclegan import MULTIPLE, train_cyclegan
from volgen.commands.bench.result import Row
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.options import Option, Positional
from volgen.core.progress import progress, say
from volgen.core.protocols import Denoiser
from volgen.data.record import Split, SubjectRecord
from volgen.data.store import Store
from volgen.images.intensity import to_model
from volgen.models.condition import asked_for
from volgen.models.denoiser import Preconditioner
from volgen.parallel.device import usable_device
from volgen.runs.choices import visited
from volgen.runs.conditions import conditions_of
from volgen.runs.trained import TrainedRun, open_run
from volgen.sampling.samplers.heun import Config as Heun
from volgen.sampling.translation import Bridge, Told, crossed

WIDTH = 2.0
"""Width of the model range, of which shares are told."""
LEAST = 5


class Config(BaseConfig):
    """Which run, and who is translated."""

    run_directory: Annotated[Path, Positional("RUN")]
    """Finished run of whole volumes that was told the column."""
    store: Path
    """Its cohort, with a table of people."""
    column: str = "age"
    """Column of numbers that is translated; a condition of the run."""
    low: float = 35.0
    """People below it are translated, and are one group of the CycleGAN."""
    high: float = 65.0
    """What they are translated to; people above it are the other group."""
    read: Annotated[tuple[str, ...], Option("NAME", ("--read",), verbatim=True, repeated=True)] = ()
    """Other column of numbers that is read in translations, once for each."""
    split: Split = "test"
    """Whose scans: people whom the run was not trained on."""
    people: PositiveInt = 8
    """Most people who are translated."""
    steps: PositiveInt | None = None
    """Points of the run's noise grid on each way (default: all)."""
    gan_steps: NonNegativeInt = 600
    """Steps of the CycleGAN's training; 0 leaves it out."""
    gan_channels: PositiveInt = 12
    """Width of its networks."""
    gan_blocks: PositiveInt = 4
    """Residual blocks of its generators."""
    gan_rate: PositiveFloat = 5e-4
    """Its learning rate."""
    seed: NonNegativeInt = 0
    """Seed of the CycleGAN and of resampling."""
    device: str | None = None
    """Torch device (default: a GPU if there is one)."""

    @model_validator(mode="after")
    def _apart(self) -> Config:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


@dataclass(frozen=True)
class Way:
    """A method of translation.

    Attributes:
        there: a person's volume [1, X, Y, Z] -> as aimed at.
        back: what that becomes on the way back.
    """

    there: Callable[[Tensor, SubjectRecord], Tensor]
    back: Callable[[Tensor, SubjectRecord], Tensor]


@dataclass(frozen=True)
class RealPeople:
    """Real people of one split.

    Attributes:
        records: their scans.
        volumes: the same, [1, X, Y, Z] in [-1, 1].
        number: what each has in the column that is translated; NaN where it is not known.
    """

    records: tuple[SubjectRecord, ...]
    volumes: tuple[Tensor, ...]
    number: Numbers

    @classmethod
    def of(cls, store: Store, split: Split, run: TrainedRun, target: Learnt) -> RealPeople:
        """A split of a store, in a run's frame.

        Raises:
            UserError: its scans have another shape.
        """
        records, place = tuple(first_scans(store, split)), run.geometry.place
        for record in records:
            if record.shape != run.geometry.shape:
                raise UserError(str(store.path), f"scan '{record.id}' has shape {list(record.shape)}", f"{list(run.geometry.shape)}")
        volumes = tuple(to_model(torch.from_numpy(store.read_block(record, place.start, place.size)))[None].float() for record in records)
        return cls(records, volumes, target.values(records))


def run(config: Config) -> list[Row]:
    """Rows of each method: change, cycle error, who is kept, and what each column moves by; and of real people, what it should move by.

    Raises:
        UserError: the run or the store cannot be used, or there is nobody to translate.
    """
    device, store, trained = usable_device(config.device), Store.open(config.store), open_run(config.run_directory)
    if trained.recipe.assembly.piecewise:
        raise UserError(str(config.run_directory), "draws volumes in pieces", "a run that denoises whole volumes")
    trained.recipe.build().fits(Heun().build(), trained.ensemble.grid, guided=True, voxels=True)
    if config.gan_steps and any(edge % MULTIPLE for edge in trained.geometry.grid):
        found, expected = f"computes on {list(trained.geometry.grid)} voxels", f"edges that are multiples of {MULTIPLE}"
        raise UserError(str(config.run_directory), found, expected, "leave the CycleGAN out: --gan-steps 0")
    target = Learnt.of_numbers(store, config.column)
    if config.column not in {condition.name for condition in trained.recipe.conditions}:
        raise UserError(str(config.run_directory), f"cannot be asked for '{config.column}'", "a run with that condition")
    read = [target, *(Learnt.of_numbers(store, name) for name in config.read)]
    train, unseen = (RealPeople.of(store, split, trained, target) for split in ("train", config.split))
    chosen = [place for place, value in enumerate(unseen.number) if value < config.low][: config.people]
    young, old = (
        [x for x, value in zip(train.volumes, train.number, strict=True) if sign * value > sign * end]
        for sign, end in ((-1, config.low), (1, config.high))
    )
    if not chosen or min(len(young), len(old), np.isfinite(train.number).sum()) < LEAST:
        found = f"has {len(chosen)} people below {config.low:g} in {config.split}, and in training {len(young)} and {len(old)} at the ends"
        raise UserError(str(store.path), found, f"at least 1, and {LEAST} of each", "choose --low and --high")
    with ExitStack() as held:
        fitted = trained.preconditioner(device)
        bank = held.enter_context(trained.bank(fitted, device, visited(trained, config.steps)))
        ways: dict[str, Way] = {trained.recipe.name: _bridged(config, trained, fitted, bank, device), "line": _line(config, train, target)}
        if config.gan_steps:
            ways["cyclegan"] = _gan(config, young, old, device)
        return _measured(config, ways, Regressions(train, unseen, config.seed), read, chosen)


def _measured(config: Config, ways: Mapping[str, Way], reader: Regressions, read: Sequence[Learnt], chosen: Sequence[int]) -> list[Row]:
    """What real people differ by, and what each method does."""
    unseen, target = reader.unseen, read[0]
    rows: list[Row] = []
    mean = float((config.high - unseen.number[chosen]).mean())
    for each in read:
        slope, of = reader.slope(each, target)
        rows.append(Row(f"real people: {each.name} moves", slope * mean, "", interval=(of[0] * mean, of[1] * mean)))
    for name, way in ways.items():
        with progress(name, len(chosen)) as ticker:
            images, returned = [], []
            for place in chosen:
                images.append(way.there(unseen.volumes[place], unseen.records[place]))
                returned.append(way.back(images[-1], unseen.records[place]))
                ticker.advance(1)
        rows += _rows(name, config.seed, reader, read, chosen, images, returned)
        say(f"{name}: {len(chosen)} people translated")
    return rows


@dataclass(frozen=True)
class Regressions:
    """What regressions that training people taught read in volumes.

    Attributes:
        train: who is learnt from.
        unseen: other people.
        seed: seed of folds and resamples.
    """

    train: RealPeople
    unseen: RealPeople
    seed: int

    def read(self, target: Learnt, volumes: Sequence[Tensor]) -> Numbers:
        """The column, of each volume."""
        values = target.values(self.train.records)
        known = np.flatnonzero(np.isfinite(values)).tolist()
        flat = np.stack([x.flatten().double().numpy() for x in [*(self.train.volumes[place] for place in known), *volumes]])
        flat -= flat[: len(known)].mean(axis=0)
        all_ = Pool(flat @ flat.T, np.zeros((len(flat), 0)), np.concatenate([values[known], np.zeros(len(volumes))]), "number")
        learnt_from = list(range(len(known)))
        return all_.predicted(learnt_from, range(len(known), len(flat)), all_.chosen(learnt_from, self.seed))

    def slope(self, of: Learnt, on: Learnt) -> tuple[float, tuple[float, float]]:
        """What is read in unseen people changes by so much for each unit of a column; with its 95 % interval (bootstrap over people)."""
        there = np.flatnonzero(np.isfinite(self.unseen.number)).tolist()
        said, x = self.read(of, [self.unseen.volumes[place] for place in there]), on.values(self.unseen.records)[there]
        generator = np.random.default_rng(self.seed)
        slopes = [float(np.polyfit(x[rows], said[rows], 1)[0]) for rows in (generator.integers(len(x), size=(2000, len(x))))]
        low, high = np.percentile(slopes, (2.5, 97.5))
        return float(np.polyfit(x, said, 1)[0]), (float(low), float(high))

    def is_kept(self, volume: Tensor, place: int) -> bool:
        """Whether nobody else is nearer to a volume than an unseen person; of training people too, but for the person."""
        own, person = (self.unseen.volumes[place] - volume).square().mean(), self.unseen.records[place].patient
        everybody = [pair for people in (self.train, self.unseen) for pair in zip(people.records, people.volumes, strict=True)]
        return all((x - volume).square().mean() > own for record, x in everybody if record.patient != person)


def _rows(
    name: str, seed: int, reader: Regressions, read: Sequence[Learnt], chosen: Sequence[int], images: Sequence[Tensor],
    returned: Sequence[Tensor],
) -> list[Row]:  # fmt: skip
    scans = [reader.unseen.volumes[place] for place in chosen]
    change = np.array([_rms(image - scan) for image, scan in zip(images, scans, strict=True)])
    cycle = np.array([_rms(back - scan) for back, scan in zip(returned, scans, strict=True)])
    kept = [reader.is_kept(image, place) for image, place in zip(images, chosen, strict=True)]
    rows = [
        Row(f"{name}: change", float(change.mean()), "of the range, rms", interval=interval(change, seed)),
        Row(f"{name}: cycle error", float(cycle.mean()), "of the range, rms", interval=interval(cycle, seed)),
        Row(f"{name}: kept", float(np.mean(kept)), "of people"),
    ]
    for target in read:
        moved = reader.read(target, images) - reader.read(target, scans)
        rows.append(Row(f"{name}: {target.name} moves", float(moved.mean()), "", interval=interval(moved, seed)))
    return rows


def _bridged(config: Config, trained: TrainedRun, fitted: Preconditioner, bank: Denoiser, device: torch.device) -> Way:
    """Through the run's noise, by Heun's solver."""
    grid = visited(trained, config.steps)
    bridge, conditions = Bridge(Heun().build(), grid, device), conditions_of(trained)[0]
    names = {condition.name for condition in conditions}

    def told(record: SubjectRecord, aim: Mapping[str, str]) -> Told:
        words = {name: text for name, text in {**record.covariates, **aim}.items() if name in names}
        return Told(bank, asked_for(conditions, words).to(device))

    aim = {config.column: f"{config.high:g}"}

    def way(x: Tensor, one: Told, other: Told) -> Tensor:
        return bridge.down(other, crossed(bridge.up(one, x), grid[0], fitted.told(one.told), fitted.told(other.told))).cpu()

    def there(x: Tensor, record: SubjectRecord) -> Tensor:
        return way(x, told(record, {}), told(record, aim))

    def back(x: Tensor, record: SubjectRecord) -> Tensor:
        return way(x, told(record, aim), told(record, {}))

    return Way(there, back)


def _line(config: Config, train: RealPeople, target: Learnt) -> Way:
    """Along the regression of voxels on the column."""
    known = np.flatnonzero(np.isfinite(train.number))
    x = torch.from_numpy(train.number[known] - train.number[known].mean()).float()
    slope = torch.einsum("n,ncxyz->cxyz", x, torch.stack([train.volumes[place] for place in known])) / x.square().sum()

    def moved(volume: Tensor, record: SubjectRecord, sign: float) -> Tensor:
        return volume + sign * (config.high - float(target.values([record])[0])) * slope

    return Way(partial(moved, sign=1.0), partial(moved, sign=-1.0))


def _gan(config: Config, young: Sequence[Tensor], old: Sequence[Tensor], device: torch.device) -> Way:
    with progress("cyclegan", config.gan_steps) as ticker:
        gan = train_cyclegan(
            young, old, steps=config.gan_steps, channels=config.gan_channels, blocks=config.gan_blocks, rate=config.gan_rate,
            seed=config.seed, device=device, done=lambda: ticker.advance(1),
        )  # fmt: skip

    def through(generator: torch.nn.Module, x: Tensor, record: SubjectRecord) -> Tensor:
        with torch.no_grad():
            return generator(x[None].to(device))[0].cpu()  # type: ignore[no-any-return]

    return Way(partial(through, gan.to_b), partial(through, gan.to_a))


def _rms(x: Tensor) -> float:
    return float((x.double().square().mean()).sqrt()) / WIDTH
