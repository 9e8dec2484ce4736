"""Sampling: experts streamed from disk beside experts in memory, and volumes that flow through ranks.

Experts have random weights; their size and the volume's are options. The figures in docs/performance.md come from here. Times of the
ways that are compared are taken by turns and the best counts, on two cores with OMP_NUM_THREADS=1; processor time, which other work on
the machine changes little, says what streaming costs where no core is idle. Both shrink with the volume: an expert is loaded once,
whatever it then has to do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from volgen.bench.sample import stream
from volgen.bench.sample.flow import Passage, passage
from volgen.bench.sample.run import make_run
from volgen.commands.bench.result import Row, row
from volgen.core.config import Config as BaseConfig
from volgen.core.progress import progress
from volgen.parallel.device import usable_device
from volgen.parallel.flow import Flow, choose, cut, simulate

MIB = 2**20
STEPS_PER_RANK = 4
VOLUMES_PER_RANK = 8
ONE, APART, ROW = "one rank", "ranks that share nothing", "a row"


class Config(BaseConfig):
    """Sizes of what is drawn, and of what draws it."""

    edge: PositiveInt = 96
    """Edge of the cubic volumes with which streaming is timed; a multiple of 2."""
    row_edge: PositiveInt = 48
    """Edge of the volumes that flow through ranks."""
    channels: tuple[PositiveInt, ...] = (64, 128, 256)
    """Widths of each expert's wavelet U-Net; the default has 18 million parameters."""
    experts: PositiveInt = 8
    """Experts that are streamed, one for each step."""
    volumes: PositiveInt = 4
    """Volumes drawn to time streaming: how often each expert works for one time that it is loaded."""
    repeats: PositiveInt = 3
    """Repeats of each time; the best counts."""
    banks: tuple[PositiveInt, ...] = (4, 16, 64)
    """Numbers of experts to measure memory with."""
    ranks: NonNegativeInt = 2
    """Processes that volumes flow through, of one thread each; 0 to leave that out."""
    simulated: tuple[PositiveInt, ...] = (2, 8, 64)
    """Numbers of ranks to simulate."""
    device: str | None = None
    """Torch device of the streaming part (default: a GPU if there is one)."""


def run(config: Config) -> list[Row]:
    """Times, memory and efficiencies; ratios are to experts in memory, to the smallest bank, and to ranks that share nothing."""
    device = usable_device(config.device)
    steps = 1 + len(config.banks) + (3 * config.repeats if config.ranks else 0)
    with tempfile.TemporaryDirectory() as scratch, progress("bench", steps) as ticker:
        bank = make_run(Path(scratch) / "bank", (config.edge,) * 3, config.channels, config.experts)
        rows = [Row("parameters of an expert", bank.ensemble.experts[0].parameters, "")]
        rows += stream.times(bank, config.volumes, config.repeats, device)
        ticker.advance(note="streaming")
        smallest: list[Row] = []
        for experts in config.banks:
            small = make_run(Path(scratch) / f"bank{experts}", (stream.SMALL,) * 3, config.channels, experts, files=min(experts, 4))
            own, mapped = stream.peak(small.directory, 2)
            found = [Row(f"peak memory, {experts} experts", own / MIB, "MiB"), Row(f"with files, {experts} experts", mapped / MIB, "MiB")]
            smallest = smallest or found
            rows += [row(one.name, one.value, one.unit, other) for one, other in zip(found, smallest, strict=True)]
            ticker.advance(note=f"{experts} experts")
        rows.append(Row("weights of two experts", 2 * 2 * bank.ensemble.experts[0].parameters / MIB, "MiB"))
        if config.ranks:
            volumes = VOLUMES_PER_RANK * config.ranks
            flowing = make_run(Path(scratch) / "row", (config.row_edge,) * 3, config.channels, config.experts)
            passages = _passages(flowing.directory, config, volumes, ticker.advance)
            rows += _flow_rows(passages, config, volumes)
            seconds = passages[ONE].seconds / (volumes * config.experts)
            for ranks in config.simulated:
                rows += _simulated(ranks, seconds, passages[ROW].transfer)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: streaming, memory, ranks, simulated ranks."""
    by_name = {one.name: one for one in rows}
    lines = ["| experts | time | processor time |", "|---|---|---|"]
    for way in stream.WAYS:
        cells = [by_name[f"{way}: {what}"] for what in ("time", "processor time")]
        lines.append(
            f"| {way} | " + " | ".join(f"{one.value:.1f} s ({next(iter(one.ratio_to.values()), 1.0):.3f})" for one in cells) + " |"
        )
    lines += ["", "| experts in the bank | peak memory | with mapped files |", "|---|---|---|"]
    for one in rows:
        if one.name.startswith("peak memory"):
            count = one.name.removeprefix("peak memory, ").removesuffix(" experts")
            lines.append(f"| {count} | {one.value:.0f} MiB | {by_name[f'with files, {count} experts'].value:.0f} MiB |")
    lines.append(f"| weights of two | {by_name['weights of two experts'].value:.0f} MiB | |")
    lines += ["", "| ranks | volumes | stages x rounds | efficiency |", "|---|---|---|---|"]
    lines += [
        "| " + one.name.removeprefix("efficiency, ").replace("; ", " | ") + f" | {one.value:.3f} |"
        for one in rows
        if "efficiency, " in one.name
    ]
    return "\n".join(lines)


def _passages(run: Path, config: Config, volumes: int, done: Callable[[int, str], None]) -> dict[str, Passage]:
    best: dict[str, Passage] = {}
    for _ in range(config.repeats):
        for name, flow in _flows(config, volumes).items():
            found = passage(run, flow, volumes)
            best[name] = min(best.get(name, found), found, key=lambda one: one.seconds)
            assert found.digests == best[ONE].digests, "the volumes are the same, bit for bit"
            done(1, name)
    return best


def _flows(config: Config, volumes: int) -> dict[str, Flow]:
    costs, owners, ranks = [1.0] * config.experts, list(range(config.experts)), config.ranks
    return {
        ONE: choose(1, volumes, costs, owners, config.experts),
        APART: choose(ranks, volumes, costs, owners, config.experts, stages=1),
        ROW: choose(ranks, volumes, costs, owners, config.experts, stages=ranks),
    }


def _flow_rows(passages: Mapping[str, Passage], config: Config, volumes: int) -> list[Row]:
    ranks, flow = config.ranks, _flows(config, volumes)[ROW]
    one, apart, row_of = (passages[name] for name in (ONE, APART, ROW))
    seconds = one.seconds / (volumes * config.experts)
    first = Row(f"{ONE}: time", one.seconds, "s")
    second = row(f"{APART}: time", apart.seconds, "s", first)
    shape = f"{volumes}; {flow.stages} x {flow.rounds}"
    simulated = simulate(flow, [seconds] * config.experts, volumes, row_of.transfer)
    alone, nothing = f"of {ranks} times one rank alone", f"of {ranks} ranks that share nothing"
    efficiencies = {
        f"{ranks}, measured, {nothing}; {shape}": apart.seconds / row_of.seconds,
        f"{ranks}, measured, {alone}; {shape}": one.seconds / (ranks * row_of.seconds),
        f"{ranks} that share nothing, {alone}; {volumes}; 1 x 1": one.seconds / (ranks * apart.seconds),
        f"{ranks}, share of the time in which they do not wait; {shape}": sum(row_of.busy) / (ranks * row_of.seconds),
        f"{ranks}, simulated, {alone}; {shape}": simulated.efficiency,
    }
    return [
        first,
        second,
        row(f"{ROW}: time", row_of.seconds, "s", first, second),
        Row("one evaluation", seconds, "s"),
        Row("one transfer", row_of.transfer, "s"),
        *(Row(f"efficiency, {name}", value, "") for name, value in efficiencies.items()),
    ]


def _simulated(ranks: int, seconds: float, transfer: float) -> list[Row]:
    """A row of all ranks with as many experts as fit: one round, and the rounds that ``volgen sample`` would choose."""
    costs, volumes = [seconds] * (STEPS_PER_RANK * ranks), VOLUMES_PER_RANK * ranks
    chosen = choose(ranks, volumes, costs, list(range(len(costs))), STEPS_PER_RANK, transfer, stages=ranks)
    flows = {flow.rounds: flow for flow in (Flow(ranks, ranks, cut(costs, ranks)), chosen)}
    return [
        Row(f"efficiency, {ranks}, simulated; {volumes}; {ranks} x {rounds}", simulate(flow, costs, volumes, transfer).efficiency, "")
        for rounds, flow in flows.items()
    ]
