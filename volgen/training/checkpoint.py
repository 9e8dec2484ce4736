"""Checkpoints of one phase that can be trusted: whole or absent, proved by checksum, good for any number of ranks and any ZeRO stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import PositiveInt
from safetensors.torch import save as serialise
from torch import Tensor

from volgen.core.config import MAY_CHANGE, Config
from volgen.core.errors import UserError
from volgen.core.files import atomic_path, fingerprint, read_json, sync, write_json
from volgen.core.limits import STATE_BYTES
from volgen.core.progress import say
from volgen.core.run_files import BEST, CHECKPOINT, DAMAGED, STATE
from volgen.training.checkpoint_files import File, Parts, damage, write_through
from volgen.training.ema import EMA
from volgen.training.protocols import Engine, Ranks, Remembers
from volgen.training.together import together

AVERAGE = "average"
KEPT = 2
"""Checkpoints that stay: should the newest turn out to be damaged, there is one before it."""
MAKE_ROOM = "make room or choose another `runs`; the same command then goes on from the last good checkpoint"


class CheckpointConfig(Config):
    """How much training a crash may cost."""

    checkpoint_every: Annotated[PositiveInt, MAY_CHANGE] = 200
    """Optimiser steps between checkpoints for resuming; one more is written on SIGINT, SIGTERM and SIGUSR1."""


@dataclass(frozen=True)
class Moment:
    """Where in a run a checkpoint was written.

    Attributes:
        phase: name of what is trained; with the seed and the step, all random draws follow from it.
        seed: seed of the run.
        step: steps of training behind it.
        first_batch: number of the data stream's batch that step 1 took; step s takes ``first_batch + s - 1``.
        metrics: digest of the numbers written so far (:meth:`volgen.training.metrics.Metrics.digest`); empty where nobody knows it.
    """

    phase: str
    seed: int
    step: int
    first_batch: int
    metrics: str = ""


def latest(folder: Path, passed: Callable[[Path, str], None] = lambda path, wrong: None) -> Path | None:
    """The newest checkpoint in a phase's folder whose every byte is as it was written.

    Args:
        folder: where the phase's checkpoints are.
        passed: hears of newer ones that are damaged, and what is wrong with them.
    """
    for path in _newest_first(folder):
        wrong = damage(path)
        if wrong is None:
            return path
        passed(path, wrong)
    return None


def step_of(checkpoint: Path | None) -> int:
    """Steps of training behind a checkpoint; 0 without one."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix(CHECKPOINT))


def find(folder: Path, ranks: Ranks) -> Path | None:
    """The newest good checkpoint. Newer ones that are damaged are named and set aside. A collective call.

    Raises:
        UserError: the folder cannot be written.
    """

    def look() -> str:
        if ranks.rank:
            return ""
        aside: list[tuple[Path, str]] = []
        good = latest(folder, lambda path, wrong: aside.append((path, wrong)))
        for path, wrong in aside:
            path.rename(path.with_name(f"{DAMAGED}{step_of(path):08d}"))
            going = f"from step {step_of(good)}, the checkpoint before it" if good else "from the start of this network: there is no other"
            say(f"{path} is damaged ({wrong}) and set aside; training goes on {going}.")
        return good.name if good else ""

    name = ranks.gather(together(ranks, folder, MAKE_ROOM, look) or " ")[0].strip()
    return folder / name if name else None


def save(place: Moment, engine: Engine, ema: EMA, judge: Remembers, ranks: Ranks, exported: Path) -> None:
    """Writes ``checkpoint-<step>`` beside ``exported``; once it is verified, all but the last two go. A collective call.

    Every rank writes its share of the tensors to a folder of another name, and reads it back; rank 0 renames the folder.

    Args:
        place: where training is.
        engine: weights and moments.
        ema: the average.
        judge: has a memory.
        ranks: the processes.
        exported: the best weights so far, if there are any; copied, because they belong to this state.

    Raises:
        UserError: it cannot be written; the checkpoints before it are as they were.
    """
    folder, name = exported.parent, f"{CHECKPOINT}{place.step:08d}"
    partial = folder / f".{name}.partial"

    def write(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, File]:
        file = f"{kind}-{ranks.rank:05d}.safetensors"
        return {file: write_through(partial / file, serialise(dict(tensors)))} if tensors else {}

    def begin() -> None:
        if ranks.rank == 0:
            for path in folder.glob(f".{CHECKPOINT}*"):
                shutil.rmtree(path)
            partial.mkdir(parents=True)

    def finish(shares: Sequence[str]) -> None:
        if ranks.rank:
            return
        files: dict[str, File] = {name: file for share in shares for name, file in json.loads(share).items()}
        if exported.exists():
            files[BEST] = write_through(partial / BEST, exported.read_bytes())
        for rank, share in enumerate(shares):
            for file in json.loads(share):
                if not (partial / file).exists():
                    found, shared = f"was written by rank {rank} and is not there for rank 0", "a file system that all nodes share"
                    raise UserError(str(partial / file), found, shared, "put `runs` on one")
        content = {
            "phase": place.phase, "seed": place.seed, "step": place.step, "first_batch": place.first_batch, "updates": engine.updates,
            "stopping": judge.state(), "ledger": None, "world_size": ranks.world_size, "files": files, "metrics": place.metrics,
        }  # fmt: skip
        write_json(partial / STATE, {**content, "fingerprint": fingerprint(content)})
        sync(partial)
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
        sync(folder)
        _remove(folder, keep=[folder / name, *_newest_first(folder)[1:KEPT]])

    try:
        together(ranks, folder, MAKE_ROOM, begin)
        written: dict[str, File] = {}
        for kind in engine.kinds:
            share = _share(engine.read(kind), ranks)
            written |= together(ranks, folder, MAKE_ROOM, lambda kind=kind, share=share: write(kind, share))  # type: ignore[misc]
            del share  # before the next kind is read
        with ema.swapped(engine.masters()):
            share = _share(engine.read("weights"), ranks)
        written |= together(ranks, folder, MAKE_ROOM, lambda: write(AVERAGE, share))
        shares = ranks.gather(json.dumps(written))
        together(ranks, folder, MAKE_ROOM, lambda: finish(shares))
    except BaseException:
        if ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def load(checkpoint: Path, place: Moment, engine: Engine, ema: EMA, judge: Remembers, ranks: Ranks, exported: Path) -> Moment:
    """Restores all state, with any number of ranks and any ZeRO stage, and returns where it was written. A collective call.

    Args:
        checkpoint: a good one (:func:`find`).
        place: where training would begin without it.
        engine: takes weights and moments.
        ema: takes the average.
        judge: takes its memory.
        ranks: the processes.
        exported: gets the best weights that belong to this state.

    Raises:
        UserError: it is of another phase or seed.
    """
    content: dict[str, Any] = read_json(checkpoint / STATE, "the state of a checkpoint", limit=STATE_BYTES)
    if (content["phase"], content["seed"]) != (place.phase, place.seed):
        found = f"is of '{content['phase']}' with seed {content['seed']}"
        raise UserError(str(checkpoint), found, f"'{place.phase}' with seed {place.seed}", "delete it, or put it back where it was")
    with ExitStack() as opened:
        parts = {kind: Parts(checkpoint, kind, content["files"], opened) for kind in (*engine.kinds, AVERAGE)}
        engine.write("weights", parts[AVERAGE])  # through the engine the average is cut as the weights are
        ema.restore(engine.masters(), int(content["updates"]))
        for kind in engine.kinds:
            engine.write(kind, parts[kind])
    engine.updates = int(content["updates"])
    judge.restore(content["stopping"])

    def put_back() -> None:
        if ranks.rank:
            return
        if BEST not in content["files"]:
            exported.unlink(missing_ok=True)
        else:
            with atomic_path(exported) as temporary:
                shutil.copyfile(checkpoint / BEST, temporary)

    together(ranks, exported, MAKE_ROOM, put_back)
    return Moment(content["phase"], content["seed"], int(content["step"]), int(content["first_batch"]), str(content.get("metrics", "")))


def remove(folder: Path) -> None:
    """Deletes all checkpoints, whole, partial and damaged, for good: none comes back when the power goes."""
    _remove(folder, keep=[])
    sync(folder)


def of_training(name: str) -> bool:
    """Whether something in a phase's folder is a checkpoint, or was to be one."""
    return name.startswith((CHECKPOINT, f".{CHECKPOINT}", DAMAGED))


def _share(tensors: Iterator[tuple[str, Tensor]], ranks: Ranks) -> dict[str, Tensor]:
    """This rank's share: each tensor goes to the rank with the fewest bytes so far, which is the same rank on all of them."""
    mine, load = {}, [0] * ranks.world_size
    for name, tensor in tensors:
        owner = load.index(min(load))
        load[owner] += tensor.nbytes
        if owner == ranks.rank:
            mine[name] = tensor.contiguous()
    return mine


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{CHECKPOINT}*"), reverse=True)


def _remove(folder: Path, keep: Sequence[Path]) -> None:
    for pattern in (f"{CHECKPOINT}*", f".{CHECKPOINT}*", f"{DAMAGED}*"):
        for path in folder.glob(pattern):
            if path not in keep:
                shutil.rmtree(path, ignore_errors=True)
