"""Chaos, seeded and bounded: in each round a fault strikes a run, which is started again and must end as an undisturbed one does.

    python tests/distributed/chaos --store STORE --folder EMPTY --rounds 35 --seed 1 --table table.md

STORE is any small store of `volgen ingest`. Exit code 0: every run ended with the same losses and weights, and nothing hung. Rounds that
need root (a small tmpfs, network namespaces) are left out, and named, without it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "cluster")]

import namespaces  # noqa: E402
import yaml  # noqa: E402
from faults import FAULTS, Scene, clean  # noqa: E402
from ranks import Job, Node, warm  # noqa: E402

from volgen.training import checkpoint  # noqa: E402

LIMIT = 900.0
"""Seconds that any job may take from its start to its end, faults included: beyond, it counts as hung."""
DEAD_AFTER = 15.0
"""Seconds; more than a busy machine starves a process."""
STEPS, EVERY = 32, 4
KEYS = ("loss", "validation_loss", "gradient_norm", "learning_rate")
TOLERANCE = 2e-4
"""Of another number of ranks or another ZeRO stage, which sum in another order; all else is equal to the last bit."""
TMPFS_MIB = 24


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    number: int
    fault: str
    after: int
    seconds: float
    message: str
    resumed: int
    verdict: str
    good: bool

    def __str__(self) -> str:
        message = self.message.removeprefix("error: ").split(". All ranks")[0].replace("|", "/")
        return f"| {self.number} | {self.fault} | {self.after} | {self.seconds:.1f} | {message or '-'} | {self.resumed} | {self.verdict} |"


HEAD = """| round | fault | struck after step | all ranks ended after s | message | resumed from step | losses and weights equal |
|---|---|---|---|---|---|---|"""


def configure(store: Path, runs: Path, name: str, stage: int = 2) -> Path:
    """Writes a small configuration; returns its path."""
    content = {
        "name": name, "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 4, "workers": 1},
        "schedule": {"kind": "log_snr", "points": 6, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8, 8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"},
        "experts": {"count": 1},
        "optimiser": {"warmup_steps": 2},
        "stopping": {"max_steps": STEPS, "validate_every": 8, "validation_volumes": 2, "validation_draws": 2, "patience": 99},
        "engine": {"checkpoint_every": EVERY, "zero_stage": stage, "dead_after": DEAD_AFTER, "hung_after": 600.0},
    }  # fmt: skip
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


Result = tuple[list[dict[str, Any]], dict[str, Any]]


def result(run: Path) -> Result:
    """Losses and weights."""
    # Read by numpy: this process forks, and must not start torch's threads.
    from safetensors.numpy import load_file

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return lines, load_file(run / "experts" / "0" / "weights.safetensors")


def apart(one: Result, other: Result) -> float:
    """Largest relative difference of losses, and that of the weights in the Euclidean norm; 0 if all is equal to the last bit."""
    if [line["step"] for line in one[0]] != [line["step"] for line in other[0]]:
        return float("inf")
    pairs = [(mine[key], theirs[key]) for mine, theirs in zip(one[0], other[0], strict=True) for key in KEYS if key in theirs]
    square: Any = sum(((one[1][name] - weights) ** 2).sum() for name, weights in other[1].items())
    norm: Any = sum((weights**2).sum() for weights in other[1].values())
    return max(float(square / norm) ** 0.5, *(abs(mine - theirs) / abs(theirs) for mine, theirs in pairs))


@contextmanager
def tmpfs(folder: Path) -> Iterator[None]:
    """A file system that is soon full."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def play(number: int, kind: str, store: Path, folder: Path, seed: int, expected: Any, cluster: Any) -> Row:
    """One round."""
    draw = random.Random(f"{seed}/{number}")
    nodes = (Node(), Node())
    if kind == "cut":
        nodes = tuple(Node(node.namespace, node.host, node.address) for node in cluster.nodes)
    home = folder / f"round{number:03d}"
    with ExitStack() as stack:
        if kind == "full_disk":
            stack.enter_context(tmpfs(home))
        config = configure(store, home, "run")
        run = home / "run"
        first = Job(config, folder / f"logs{number:03d}" / "first", nodes)
        stack.callback(first.kill)
        first.start()
        struck = FAULTS[kind](Scene(first, run, draw, cluster, LIMIT))
        after = checkpoint.step_of(checkpoint.latest(run / "experts" / "0"))
        in_time = first.wait(LIMIT)
        seconds = time.monotonic() - struck.when
        first.kill()
        problems, equal = [] if in_time else ["HUNG"], ""
        codes = [first.codes[rank] for rank in (0, 1)]
        if not all(code in allowed for code, allowed in zip(codes, struck.codes, strict=True)):
            problems.append(f"EXIT CODES {codes}")
        errors = first.errors()
        if len(errors) != struck.messages or (errors and struck.contains not in errors[0]):
            problems.append(f"MESSAGES {errors}")
        struck.undo()
        resumed = checkpoint.step_of(checkpoint.latest(run / "experts" / "0"))
        ranks, stage = struck.then
        second = Job(configure(store, home, "run", stage), folder / f"logs{number:03d}" / "second", nodes[:ranks])
        stack.callback(second.kill)
        second.start()
        if not second.wait(LIMIT):
            problems.append("RELAUNCH HUNG")
        elif set(second.codes.values()) != {0}:
            problems.append(f"RELAUNCH {second.codes} {second.errors()}")
        else:
            difference = apart(result(run), expected)
            equal = "yes" if difference == 0 else f"to {difference:.0e}"
            if difference > (0 if struck.then == (2, 2) else TOLERANCE):
                problems.append(f"NOT EQUAL: {difference:.1e}")
        message = errors[0] if errors else next((line for line in second.said().splitlines() if "is damaged" in line), "")
        message = message.replace(str(run / "experts" / "0") + "/", "")
    if not problems:
        clean(home)
    return Row(number, struck.what, after, seconds, message, resumed, "; ".join(problems) or equal, not problems)


def main() -> int:
    """Plays all rounds; 1 if any went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=35)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    options = parser.parse_args()
    kinds: list[str] = options.faults
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that namespaces and mounts do not stay behind
    with ExitStack() as stack:
        cluster = None
        for kind, missing in (("cut", namespaces.unavailable()), ("full_disk", "" if os.geteuid() == 0 else "a tmpfs needs root")):
            if missing and kind in kinds:
                print(f"Without {kind}: {missing}.", flush=True)
                kinds = [other for other in kinds if other != kind]
        if "cut" in kinds:
            (options.folder / "nodes").mkdir(parents=True)
            cluster = stack.enter_context(namespaces.two_nodes(options.folder / "nodes"))
        warm()
        whole = Job(configure(options.store, options.folder / "whole", "run"), options.folder / "logs-whole")
        whole.start()
        if not whole.wait(LIMIT) or whole.codes != {0: 0, 1: 0}:
            whole.kill()
            print(f"The undisturbed run failed: {whole.codes}\n{whole.said()}")
            return 1
        expected = result(options.folder / "whole" / "run")
        print(HEAD, flush=True)
        rows = []
        for number in range(1, options.rounds + 1):
            rows.append(play(number, kinds[(number - 1) % len(kinds)], options.store, options.folder, options.seed, expected, cluster))
            print(rows[-1], flush=True)
    if options.table:
        options.table.write_text("\n".join([HEAD, *map(str, rows)]) + "\n")
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
