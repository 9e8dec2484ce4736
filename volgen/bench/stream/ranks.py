"""Several processes that stream at once, each a rank with its share of every batch: for ``volgen bench stream``."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from volgen.bench.stream.paths import AUGMENT
from volgen.commands.bench.result import Row, row
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig

RANKS = "augmented float tensor, processes"


def ranks(path: Path, records: Sequence[SubjectRecord], most: int) -> list[Row]:
    """Augmented volumes per second of the clock from 1, 2, 4, ... processes, each a rank with its share of every batch."""
    rows: list[Row] = []
    counts = [2**power for power in range(most.bit_length()) if 2**power <= most]
    for count in counts:
        context = multiprocessing.get_context("forkserver")  # a store must not be carried over a fork
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            jobs = [(path, list(records), rank, count, 6 // count + 1) for rank in range(count)]
            spent = [future.result() for future in [pool.submit(_rank, *job) for job in jobs]]
        entry = row(f"{RANKS}: {count}", sum(number / seconds for number, seconds in spent), "per s", *rows[:1])
        rows.append(entry)
    return rows


def _rank(path: Path, records: list[SubjectRecord], rank: int, world: int, steps: int) -> tuple[int, float]:
    """Volumes that one rank streamed, and the seconds that it took; the first batch is not counted."""
    torch.set_num_threads(1)
    config = StreamConfig(store="", shape=records[0].shape, batch_size=world, workers=1, cache_gib=0.0, augment=AUGMENT)
    stream = Stream(Store(path, records), records[0].split, config, 0, rank, world)
    stream.batch(0)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        stream.batch(step)
    seconds = time.perf_counter() - start
    stream.close()
    return steps, seconds
