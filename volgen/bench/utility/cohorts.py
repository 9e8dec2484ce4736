"""Who and what is learnt from in studies of use: people of a store, volumes that runs draw as asked, and samples of a Gaussian."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from volgen.bench._shared.columns import Learnt, first_scans, unit_voxels
from volgen.bench._shared.learner import FOLDS, Numbers
from volgen.bench.utility.downstream import GAUSSIAN, Labelled, Study, Voxels, gaussian_of, log_size
from volgen.commands.bench.result import Row
from volgen.commands.sample.sample import sample
from volgen.core.errors import UserError
from volgen.core.progress import say
from volgen.data.record import Split, SubjectRecord
from volgen.data.store import Store
from volgen.images import nifti
from volgen.runs.trained import TrainedRun

ENDS = (5.0, 95.0)
"""Percentiles of the numbers of public and judged people, between which volumes are asked for."""


def studied(
    store: Store, runs: Mapping[str, TrainedRun], targets: Sequence[str], split: Split, *, count: int, public: int, draws: int,
    without_size: Sequence[str], width: float | None, seed: int, batch_size: int, device: str | None,
) -> list[Row]:  # fmt: skip
    """A study of each target.

    Args:
        store: the cohort: the protected people are its training split.
        runs: by name; each was told all targets.
        targets: columns.
        split: whose people are public or judged.
        count: volumes drawn from each run, and from the Gaussian.
        public: people of the split who are public in a draw.
        draws: how often they are drawn anew.
        without_size: targets that are predicted without what the size of a head says.
        width: width of intervals of numbers, of which those with the fewest people are looked at apart; None: none are.
        seed: seed of everything.
        batch_size: volumes drawn together.
        device: torch device.

    Raises:
        UserError: a target is not in the store or unknown to a run, or there are too few people.
    """
    found = [Learnt.of(store, name) for name in dict.fromkeys(targets)]
    for name in without_size:
        if name not in targets:
            raise UserError(f"--without-size {name}", "is no target", f"one of {', '.join(targets)}")
    for run in runs.values():
        told = [condition.name for condition in run.recipe.conditions]
        unknown = [target.name for target in found if target.name not in told]
        if unknown:
            raise UserError(str(run.directory), f"cannot be asked for '{unknown[0]}'", f"a run with the conditions {', '.join(targets)}")
    protected, others = first_scans(store, "train"), first_scans(store, split)
    asked = asked_rows(found, others, count)
    values = _values(found, asked)
    made = {name: _cohort(_as_asked(run, asked, seed, batch_size, device), values) for name, run in runs.items()}
    real, known = unit_voxels(store, protected), _values(found, [record.covariates for record in protected])
    whole = np.isfinite(np.column_stack(list(known.values()))).all(axis=1)
    fitted = np.column_stack([value[whole] for value in known.values()])
    baseline = gaussian_of(real[whole], fitted, np.column_stack(list(values.values())), seed)
    made[GAUSSIAN] = _cohort(baseline, values)
    judged, of_others = unit_voxels(store, others), _values(found, [record.covariates for record in others])
    rows: list[Row] = []
    for target in found:
        one = Labelled(real, log_size(real), known[target.name]).known()
        other = Labelled(judged, log_size(judged), of_others[target.name]).known()
        if len(one.target) < FOLDS or len(other.target) < public + FOLDS:
            there = f"'{target.name}' is known of {len(one.target)} people of the training split and {len(other.target)} of {split}"
            raise UserError(str(store.path), there, f"{FOLDS}, and {public} who are public and {FOLDS} more")
        cohorts = {name: Labelled(each.voxels, each.size, values[target.name]) for name, each in made.items()}
        study = Study.of(
            target.name, target.kind, one, other, cohorts, publics=public, draws=draws, without_size=target.name in without_size,
            width=width, seed=seed,
        )  # fmt: skip
        rows += study.rows()
        say(f"{target.name}: {len(one.target)} protected people, {len(other.target)} who are public ({public}) or judged")
    return rows


def drawn_by(run: TrainedRun, given: Sequence[str], *, count: int, seed: int, batch_size: int, device: str | None) -> Voxels:
    """Volumes of a run [N, voxels] in [0, 1], through the command's own route."""
    with tempfile.TemporaryDirectory() as scratch:
        out = sample(run.directory, Path(scratch) / "out", count=count, seed=seed, given=given, batch_size=batch_size, device=device)
        volumes = [nifti.read(path).voxels for path in sorted(out.rglob("*.nii.gz"))]
    return np.stack([run.geometry.intensity.to_unit(voxels).reshape(-1) for voxels in volumes])


def asked_rows(targets: Sequence[Learnt], others: Sequence[SubjectRecord], count: int) -> list[dict[str, str]]:
    """What volumes are asked to be: numbers at even steps over what public people have, with each word as often as the other.

    Nothing of it follows from those who are protected.
    """
    rows: list[dict[str, str]] = [{} for _ in range(count)]
    period = 1
    for target in targets:
        if target.words:
            for place, row in enumerate(rows):
                row[target.name] = target.words[place // period % 2]
            period *= 2
        else:
            there = [value for record in others if np.isfinite(value := target.value(record.covariates.get(target.name, "")))]
            low, high = np.percentile(there, ENDS) if there else (0.0, 0.0)
            for row, value in zip(rows, np.linspace(low, high, count), strict=True):
                row[target.name] = f"{value:.4g}"
    return rows


def _values(targets: Sequence[Learnt], rows: Sequence[Mapping[str, str]]) -> dict[str, Numbers]:
    return {target.name: np.array([target.value(row.get(target.name, "")) for row in rows]) for target in targets}


def _cohort(voxels: Voxels, values: Mapping[str, Numbers]) -> Labelled:
    return Labelled(voxels, log_size(voxels), next(iter(values.values())))


def _as_asked(run: TrainedRun, asked: Sequence[Mapping[str, str]], seed: int, batch_size: int, device: str | None) -> Voxels:
    """A volume for each row."""
    names = list(asked[0])
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "asked.tsv"
        table.write_text("\n".join("\t".join(cells) for cells in [names, *([row[name] for name in names] for row in asked)]) + "\n")
        return drawn_by(run, [str(table)], count=len(asked), seed=seed, batch_size=batch_size, device=device)
