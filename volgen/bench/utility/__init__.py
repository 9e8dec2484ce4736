"""Quality of finished runs against what they reveal: epsilon of their ledgers, beside samples and denoising of people they have not seen.

Every run is judged on the same people of the protected cohort, twice. Samples: Frechet distance to the test people in principal components
of the training people, as a multiple of that of equally many real training people (the floor, 1). Denoising: weighted squared error at each
noise level of the first run's grid, under the same noise for all. What is printed looks at people whom nothing protects: for studies of
the method, and no part of a release. The table and figure in docs/privacy.md come from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from volgen.bench._shared.denoising import errors_of, names_of, read
from volgen.bench.utility.cohorts import drawn_by, studied
from volgen.bench.utility.segmentation import segmented
from volgen.commands.bench.result import Row
from volgen.commands.bench.result import table as plain
from volgen.core.config import Config as BaseConfig
from volgen.core.files import atomic_path
from volgen.core.options import Option, Positional
from volgen.core.progress import say
from volgen.data.record import Split, SubjectRecord
from volgen.data.store import Store
from volgen.evaluation.frechet_ratio import frechet_ratio
from volgen.parallel.device import usable_device
from volgen.runs.trained import TrainedRun, open_run

MOST = 64
"""Training people whose principal components are taken."""
Unit = NDArray[np.float32]


class Config(BaseConfig):
    """Which runs, and on whom."""

    runs: Annotated[tuple[Path, ...], Positional("RUN")]
    """Finished runs of one noise grid and shape: first the public one, whose weights the errors have, then such as one for each epsilon."""
    store: Path
    """Store of the protected cohort."""
    split: Split = "test"
    """Whose scans: people whom no run was trained on."""
    volumes: PositiveInt = 16
    """Scans that are denoised at each noise level."""
    samples: PositiveInt = 32
    """Volumes drawn from each run."""
    target: Annotated[tuple[str, ...], Option("NAME", ("--target",), verbatim=True, repeated=True)] = ()
    """Column of the store's table of people that is learnt from volumes: numbers, or two words; a condition of every run. Once for each."""
    public: PositiveInt = 40
    """People of the split who are public in a draw; the others are those who are judged."""
    draws: PositiveInt = 8
    """How often public people are drawn anew."""
    without_size: Annotated[tuple[str, ...], Option("NAME", ("--without-size",), verbatim=True, repeated=True)] = ()
    """Target that is learnt without what the size of a head says, once for each."""
    labels: Path | None = None
    """Folder with an image of labels for each person of the store, in the frame of their scans: structures are a target, too."""
    structures: Path | None = None
    """Names of labels: lines with a number and a name each; those of one name are one structure."""
    rare: PositiveFloat | None = None
    """Width of intervals of numbers, such as 10 years: people in those with the fewest protected people are looked at apart."""
    batch_size: PositiveInt = 4
    """Volumes denoised together."""
    seed: NonNegativeInt = 0
    """Seed of all noise; the same for every run."""
    figure: Path | None = None
    """PNG file for quality against epsilon."""
    device: str | None = None
    """Torch device (default: a GPU if there is one)."""

    @model_validator(mode="after")
    def _both(self) -> Config:
        if (self.labels is None) != (self.structures is None):
            raise ValueError("labels and structures go together: a folder of labels, and a table of their names")
        return self


def run(config: Config) -> list[Row]:
    """Three kinds of rows for each run: epsilon (none without a guarantee), Frechet ratio, and errors: mean and at each noise level.

    Raises:
        UserError: a run or the store is damaged or unfinished, or they do not fit each other.
    """
    device, store = usable_device(config.device), Store.open(config.store)
    runs, names = [open_run(directory) for directory in config.runs], names_of(config.runs)
    held = read(config, store, runs)
    weights, grid = runs[0].preconditioner(device), sorted(runs[0].ensemble.grid, reverse=True)
    unseen, train = (_real(store, records) for records in (store.split(config.split), store.split("train")[:MOST]))
    rows: list[Row] = []
    drawn: dict[str, Unit] = {}
    for trained, name in zip(runs, names, strict=True):
        epsilon = _epsilon(trained)
        rows += [] if epsilon is None else [Row(f"{name} epsilon", epsilon, "")]
        free = drawn[name] = drawn_by(
            trained, (), count=config.samples, seed=config.seed, batch_size=config.batch_size, device=config.device
        )
        distance = frechet_ratio(free[:, None], unseen, train)
        rows.append(Row(f"{name} frechet", distance["ratio"], "", {"real people": distance["ratio"]}))
        with trained.bank(trained.preconditioner(device), device, grid) as bank:
            errors = errors_of(bank, weights, held.volumes, grid, config, device, lambda: None)
        rows.append(Row(f"{name} error", float(errors.mean()), "weighted squared error"))
        rows += [
            Row(f"{name} error sigma {s:.4g}", float(e), "weighted squared error") for s, e in zip(grid, errors.mean(axis=0), strict=True)
        ]
        say(f"{name}: epsilon {epsilon}, Frechet ratio {distance['ratio']:.3f}, error {errors.mean():.4f}")
    rows.append(Row("real people frechet", 1.0, ""))
    if config.target:
        rows += studied(
            store, dict(zip(names, runs, strict=True)), config.target, config.split, count=config.samples, public=config.public,
            draws=config.draws, without_size=config.without_size, width=config.rare, seed=config.seed, batch_size=config.batch_size,
            device=config.device,
        )  # fmt: skip
    if config.labels and config.structures:
        rows += segmented(
            store, drawn, config.labels, config.structures, config.split, public=config.public, draws=config.draws, seed=config.seed
        )  # fmt: skip
    if config.figure:
        _draw(config.figure, rows, names[0], {name: _kind(trained) for name, trained in zip(names[1:], runs[1:], strict=True)})
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each run, with the error at every other noise level."""
    values = {row.name: row.value for row in rows}
    names = [name.removesuffix(" error") for name in values if name.endswith(" error")]
    levels = [name.partition(" error sigma ")[2] for name in values if name.startswith(f"{names[0]} error sigma ")][::3]
    lines = ["| run | epsilon | Frechet, times real | error | " + " | ".join(f"sigma {level}" for level in levels) + " |"]
    lines.append("|---" * (4 + len(levels)) + "|")
    for name in names:
        epsilon = values.get(f"{name} epsilon")
        cells = [
            name,
            "none" if epsilon is None else f"{epsilon:.3g}",
            f"{values[f'{name} frechet']:.2f}",
            f"{values[f'{name} error']:.3f}",
        ]
        cells += [f"{values[f'{name} error sigma {level}']:.3f}" for level in levels]
        lines.append("| " + " | ".join(cells) + " |")
    learnt = [row for row in rows if ": " in row.name]
    if learnt:
        lines += ["", plain(learnt)]
    return "\n".join(lines)


def _epsilon(trained: TrainedRun) -> float | None:
    found = trained.claim.get("epsilon")
    return None if found is None else float(found)


def _real(store: Store, records: Sequence[SubjectRecord]) -> Unit:
    """[people, 1, voxels]."""
    return np.stack([store.read_unit(record).reshape(1, -1) for record in records])


def _kind(trained: TrainedRun) -> str:
    if not trained.recipe.start.warm:
        return "from scratch"
    part = ", some noise levels" if trained.recipe.start.sigma else ""
    return f"from a public run, {trained.recipe.adapter.kind}{part}"


def _draw(path: Path, rows: Sequence[Row], public: str, kinds: Mapping[str, str]) -> None:
    """Quality against epsilon, one line for each way of training; runs without a guarantee at the right end, the public one for all."""
    from matplotlib.figure import Figure

    values = {row.name: row.value for row in rows}
    finite = [value for name, value in values.items() if name.endswith(" epsilon")]
    end = 4.0 * max(finite, default=10.0)
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    for axes, what, label in zip(
        figure.subplots(1, 2),
        ("frechet", "error"),
        ("Frechet distance, times real people's", "error of denoising unseen people"),
        strict=True,
    ):
        for kind, group in groupby(sorted(kinds, key=lambda name: kinds[name]), key=lambda name: kinds[name]):
            points = sorted((values.get(f"{name} epsilon", end), values[f"{name} {what}"]) for name in group)
            axes.plot(*zip(*points, strict=True), "o-", label=kind)
        axes.axhline(values[f"{public} {what}"], color="black", linestyle="--", linewidth=1.0, label=f"{public} as it is")
        if what == "frechet":
            axes.axhline(1.0, color="grey", linestyle=":", label="real people")
        axes.set(xscale="log", yscale="log", xlabel="epsilon per patient (right end: no guarantee)", ylabel=label)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
