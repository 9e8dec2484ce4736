"""Streaming of training volumes: whole, slices, blocks, augmented tensors and coarse levels, beside the alternatives.

The tables in docs/performance.md come from here. Every row reads the same scans in the same run, from files that the operating system
holds in memory. A rate is per CPU second, of all threads, so that other work on the machine hardly counts; the same rate per second of
the clock is a row of its own (", wall"). The best of the repeats is taken, and these are interleaved over the rows. ``--short`` is for
the regression gate: ``volgen bench stream --short --against docs/benchmarks/stream-short.json``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from volgen.bench.stream import paths as paths
from volgen.bench.stream.objects import uploaded
from volgen.bench.stream.ranks import RANKS, ranks
from volgen.bench.stream.readers import NIFTI_GZ, Reader, Window, readers, stored_reader
from volgen.cohort import copy_to
from volgen.commands.bench.result import Row, row
from volgen.commands.ingest.ingest import ingest
from volgen.core.config import Config as BaseConfig
from volgen.core.progress import progress
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.layout import PACKINGS
from volgen.data.levels import LEVELS
from volgen.data.store import Store

INTO, NEW, BLOCK = "volume, reused buffer", "volume, new array", "block"
AXES = ("sagittal slice", "coronal slice", "axial slice")
PLAIN, MOVED = "float tensor", "augmented float tensor"
COARSE = tuple(f"float tensor of level {level}" for level in range(1, LEVELS + 1))
GROUPS = (INTO, NEW, *AXES, BLOCK, PLAIN, MOVED, *COARSE)
GATED = dict.fromkeys(GROUPS, NIFTI_GZ) | {PLAIN: paths.LOAD, MOVED: f"{paths.LOAD} + RandAffine"} | dict.fromkeys(COARSE, paths.AVERAGED)
"""What the regression gate compares with: slow and steady, unlike a copy of memory."""
PARTS = 8
"""Slices or blocks in one measurement."""
MOST, ENOUGH = 8, 0.05
"""How often at most, and for how many CPU seconds, what is quick is measured in one repeat."""
FULL, SHORT = 256, 128
QUEUE = "TorchIO Queue"
Times = dict[tuple[str, str], tuple[float, float]]


class Config(BaseConfig):
    """What is measured, and how often."""

    store: Path | None = None
    """Finished store whose scans share a shape (default: the sample cohort, resampled to uint8 of 256^3 voxels, 128^3 with --short)."""
    address: str | None = None
    """Address with nothing under it, such as s3://bucket/bench, where the same scans are put, read, and removed again."""
    volumes: PositiveInt = 3
    """Scans that are read in turn."""
    block: PositiveInt = 96
    """Edge of the random blocks in voxels; at most half of the scan's."""
    repeats: PositiveInt = 4
    """Repeats of each measurement; the best counts."""
    processes: NonNegativeInt = 2
    """Most processes that stream as ranks at once; 0 leaves this out."""
    short: bool = False
    """Whether to take the minute's form for the regression gate: smaller scans, no processes."""


def run(config: Config) -> list[Row]:
    """Reads the first scans of a store in every way; ratios of volgen's rows are to all the others of their group.

    Raises:
        UserError: no such store, or a damaged one.
        AssertionError: a reader gives other voxels than the store.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = Store.open(config.store or _sample(folder, SHORT if config.short else FULL, config.volumes))
        records = [record for record in store.records if record.shape == store.records[0].shape and record.split == store.records[0].split]
        # The scans are written anew: with levels, whatever the store has.
        records = [replace(record, levels=LEVELS) for record in records[: config.volumes]]
        scans_ZYX = [np.ascontiguousarray(store.read_codes(record).T) for record in records]
        known = list(readers(folder, records, scans_ZYX))
        block = min(config.block, min(records[0].shape) // 2)
        with uploaded(folder / "slices", config.address) as far:
            known += [stored_reader(name, at, records) for name, at in far.items()]
            work = _reading(known, scans_ZYX, store.buffer(records[0]).T, block)
            places: dict[str, Path | str] = {layout: folder / layout for layout in PACKINGS}
            places |= far
            with paths.streams(places, records) as (plain, moved):
                for group, found in (
                    (PLAIN, plain | paths.plain_paths(folder, len(records))),
                    (MOVED, moved | paths.moved_paths(folder, len(records))),
                ):
                    for name, task in found.items():
                        work[group, name] = (lambda n, task=task: task(n % len(records)), 1)  # type: ignore[misc]
                for level, group in enumerate(COARSE, start=1):
                    for name, task in paths.coarse_paths(folder, places, records, level).items():
                        work[group, name] = (lambda n, task=task: task(n % len(records)), 1)  # type: ignore[misc]
                patch = paths.queue(folder, len(records), block)
                work[BLOCK, QUEUE] = (lambda n: patch(), 16)  # the queue is filled once in that many
                times = _measure(work, config.repeats)
        rows = [
            Row("voxels", scans_ZYX[0].size, ""),
            Row("background", float(np.mean([(s == s.min()).mean() for s in scans_ZYX])), "share"),
        ]
        rows += [Row(f"{name}: size", _mebibytes(folder, name, len(records)), "MiB") for name in ("slices", "volumes", "nii.gz")]
        rows += _rows(times)
        if config.processes and not config.short:
            rows += ranks(folder / "slices", records, config.processes)
    return rows


def table(rows: Sequence[Row]) -> str:
    """One line for each way to read, one column for each kind of access: per CPU second, and in brackets per second of the clock."""
    found = {row.name: row for row in rows}
    names = list(dict.fromkeys(row.name.split(": ", 1)[1].removesuffix(", wall") for row in rows if row.name.startswith(GROUPS)))
    lines = []
    for groups in ((INTO, NEW, *AXES, BLOCK), (PLAIN, MOVED), COARSE):
        lines += ["| | " + " | ".join(groups) + " |", "|---" * (len(groups) + 1) + "|"]
        for name in names:
            pairs = [(found.get(f"{group}: {name}"), found.get(f"{group}: {name}, wall")) for group in groups]
            if any(one for one, _ in pairs):
                cells = [f"{one.value:.3g} ({wall.value:.3g})" if one and wall else "" for one, wall in pairs]
                lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    rest = [row for row in rows if row.name.startswith(RANKS) or not row.name.startswith((*GROUPS, "gate"))]
    lines += [f"{row.name}: {row.value:.3g} {row.unit}" for row in rest]
    return "\n".join(lines)


def _sample(folder: Path, edge: int, people: int) -> Path:
    """The first people of the sample cohort, large: real heads, so that they compress as heads do."""
    source, chosen = copy_to(folder / "cohort"), folder / "chosen"
    chosen.mkdir()
    for path in sorted(source.rglob("*_T1w.nii.gz"))[:people]:
        path.rename(chosen / path.name)
    config = IngestConfig(shape=(edge,) * 3, voxel_size=FULL / edge, dtype="uint8", validation=0.0, test=0.0)
    ingest(chosen, folder / "ingested", config)
    return folder / "ingested"


def _reading(
    known: Sequence[Reader], scans_ZYX: Sequence[Any], buffer: Any, block: int
) -> dict[tuple[str, str], tuple[Callable[[int], Any], int]]:
    """What to do the n-th time, and how many pieces that reads, for each group and reader; ``buffer`` is reused by all."""
    random = np.random.default_rng(0)
    whole: Window = tuple(slice(0, size) for size in buffer.shape)  # type: ignore[assignment]
    windows: dict[str, list[Window]] = {}
    for axis, name in zip((2, 1, 0), AXES, strict=True):
        places = random.integers(0, buffer.shape[axis], PARTS)
        windows[name] = [tuple(slice(p, p + 1) if a == axis else s for a, s in enumerate(whole)) for p in places]  # type: ignore[misc]
    corners = random.integers(0, np.array(buffer.shape) - block + 1, (PARTS, 3))
    windows[BLOCK] = [tuple(slice(int(c), int(c) + block) for c in corner) for corner in corners]  # type: ignore[misc]
    work: dict[tuple[str, str], tuple[Callable[[int], Any], int]] = {}
    count = len(scans_ZYX)
    for reader in known:
        for number, scan_ZYX in enumerate(scans_ZYX):  # warms the files, and makes sure that like is compared with like
            assert np.array_equal(reader.new(number), scan_ZYX), reader.name
        work[NEW, reader.name] = (lambda n, reader=reader: reader.new(n % count), 1)  # type: ignore[misc]
        if reader.into is not None:
            reader.into(0, buffer)
            assert np.array_equal(buffer, scans_ZYX[0]), reader.name
            work[INTO, reader.name] = (lambda n, read=reader.into: read(n % count, buffer), 1)  # type: ignore[misc]
        if reader.part is None:
            continue
        for name, some in windows.items():
            task = partial(_parts, reader.part, some, count)
            assert all(np.array_equal(found, scans_ZYX[0][window]) for found, window in zip(task(0), some, strict=True)), reader.name
            work[name, reader.name] = (task, PARTS)
    return work


def _parts(read: Callable[[int, Window], Any], windows: Sequence[Window], scans: int, number: int) -> list[Any]:
    return [read(number % scans, window) for window in windows]


def _measure(work: dict[tuple[str, str], tuple[Callable[[int], Any], int]], repeats: int) -> Times:
    """Pieces per CPU second and per second, the best of the repeats."""
    best: Times = {}
    with progress("bench", repeats) as ticker:
        for repeat in range(repeats):
            for key, (task, pieces) in work.items():
                rounds, spent = pieces if key[1] == QUEUE else 1, 0.0
                for number in range(MOST):
                    wall, cpu = time.perf_counter(), time.process_time()
                    for step in range(rounds):
                        task(repeat + number + step)
                    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                    before = best.get(key, (0.0, 0.0))
                    best[key] = (max(before[0], pieces / cpu), max(before[1], pieces / wall))
                    spent += cpu
                    if spent > ENOUGH:
                        break
            ticker.advance()
    return best


def _rows(times: Times) -> list[Row]:
    rows: list[Row] = []
    gz = [Row(f"{NEW}: {name}", times[NEW, name][0], "per CPU s") for name in (NIFTI_GZ, f"{NIFTI_GZ}, get_fdata")]
    for group in GROUPS:
        rates = {name: rate for (where, name), rate in times.items() if where == group}
        others = [Row(f"{group}: {name}", cpu, "per CPU s") for name, (cpu, _) in rates.items() if not name.startswith("volgen")]
        rows += others
        against = [*gz, *others] if group == INTO else others
        own = {name: cpu for name, (cpu, _) in rates.items() if name.startswith("volgen")}
        mine = [row(f"{group}: {name}", cpu, "per CPU s", *against) for name, cpu in own.items()]
        slow = next(entry for entry in against if entry.name.endswith(GATED[group]))
        rows += [*mine, *(row(f"gate, {entry.name}", entry.value, entry.unit, slow, better="higher") for entry in mine)]
        rows += [Row(f"{group}: {name}, wall", wall, "per s") for name, (_, wall) in rates.items()]
    return rows


def _mebibytes(folder: Path, name: str, count: int) -> float:
    """Mean size of a scan on disk."""
    found = folder.glob("[0-9]*.nii.gz") if name == "nii.gz" else (folder / name).rglob("*")
    return sum(path.stat().st_size for path in found if path.is_file()) / count / 2**20
