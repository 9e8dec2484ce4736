"""Checkpoints of one phase: whole or absent, and never more than one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from volgen.core.errors import UserError
from volgen.core.files import read_json, write_json
from volgen.training.ema import EMA
from volgen.training.protocols import Engine, Ranks
from volgen.training.stopping import Stopping

STATE = "state.json"
PREFIX = "checkpoint-"


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in a phase's folder."""
    found = sorted(path for path in folder.glob(f"{PREFIX}*") if (path / STATE).is_file())
    return found[-1] if found else None


def step_of(checkpoint: Path | None) -> int:
    """Steps of training behind a checkpoint; 0 without one."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix(PREFIX))


def save(folder: Path, step: int, engine: Engine, ema: EMA, stopping: Stopping, ranks: Ranks) -> None:
    """Writes ``checkpoint-<step>`` and then deletes older ones. A collective call.

    DeepSpeed writes in place, so everything goes into a folder of another name, which rank 0 renames when all ranks are done.
    """
    final, partial = folder / f"{PREFIX}{step:08d}", folder / f".{PREFIX}{step:08d}.partial"
    if ranks.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    ranks.barrier()
    engine.save(partial)
    save_file(ema.state(), partial / _ema_name(ranks.rank))
    ranks.barrier()
    if ranks.rank == 0:
        write_json(partial / STATE, {"step": step, "world_size": ranks.world_size, "stopping": stopping.state()})
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        remove(folder, keep=final)
    ranks.barrier()


def load(checkpoint: Path, engine: Engine, ema: EMA, stopping: Stopping, ranks: Ranks) -> int:
    """Restores all state and returns the step. A collective call.

    Raises:
        UserError: the checkpoint is of another number of ranks.
    """
    content: dict[str, Any] = read_json(checkpoint / STATE, "the state of a checkpoint")
    if content["world_size"] != ranks.world_size:
        raise UserError(
            str(checkpoint), f"was written by {content['world_size']} ranks", f"{ranks.world_size}, as many as there are now",
            f"continue with {content['world_size']} ranks, or delete this folder to train this expert from its start",
        )  # fmt: skip
    engine.load(checkpoint)
    step = int(content["step"])
    ema.restore(load_file(checkpoint / _ema_name(ranks.rank)), step)
    stopping.restore(content["stopping"])
    return step


def remove(folder: Path, keep: Path | None = None) -> None:
    """Deletes checkpoints, whole and partial, except ``keep``."""
    for path in [*folder.glob(f"{PREFIX}*"), *folder.glob(f".{PREFIX}*")]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def _ema_name(rank: int) -> str:
    return f"ema-rank{rank:05d}.safetensors"
