"""Checkpoints of one phase that can be trusted: whole or absent, proved by checksum, good for any number of ranks and any ZeRO stage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.files import atomic_path, fingerprint, read_json, sha256, write_json
from volgen.core.progress import say
from volgen.training.ema import EMA
from volgen.training.protocols import Engine, Ranks
from volgen.training.stopping import Stopping
from volgen.training.together import together

STATE = "state.json"
PREFIX, ASIDE = "checkpoint-", ".damaged-checkpoint-"
AVERAGE = "average"
BEST = "best.safetensors"
KEPT = 2
"""Checkpoints that stay: should the newest turn out to be damaged, there is one before it."""
MAKE_ROOM = "make room or choose another `runs`; the same command then goes on from the last good checkpoint"

File = dict[str, str | int]
"""SHA-256 and bytes of one file."""


@dataclass(frozen=True)
class Place:
    """Where in a run a checkpoint was written.

    Attributes:
        phase: name of what is trained; with the seed and the step, all random draws follow from it.
        seed: of the run.
        step: steps of training behind it.
        first_batch: number of the data stream's batch that step 1 took; step s takes ``first_batch + s - 1``.
    """

    phase: str
    seed: int
    step: int
    first_batch: int


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in a phase's folder whose every byte is as it was written."""
    return next((path for path in _newest_first(folder) if damage(path) is None), None)


def step_of(checkpoint: Path | None) -> int:
    """Steps of training behind a checkpoint; 0 without one."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix(PREFIX))


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing is: its files have the sizes and checksums that it says."""
    try:
        content = read_json(checkpoint / STATE, "the state of a checkpoint")
        if content.pop("fingerprint", None) != fingerprint(content):
            return f"{STATE} was changed"
        for name, file in content["files"].items():
            found = (checkpoint / name).stat().st_size
            if found != file["bytes"]:
                return f"{name} has {found} bytes instead of {file['bytes']}"
            if sha256(checkpoint / name) != file["sha256"]:
                return f"{name} has another checksum"
    except UserError as error:
        return f"{STATE} {error.found}"
    except OSError as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return None


def find(folder: Path, ranks: Ranks) -> Path | None:
    """The newest good checkpoint. Newer ones that are damaged are named and set aside. A collective call.

    Raises:
        UserError: the folder cannot be written.
    """

    def look() -> str:
        aside = []
        for path in _newest_first(folder) if ranks.rank == 0 else ():
            wrong = damage(path)
            if wrong is None:
                break
            aside.append((path, wrong))
        good = folder / "none" if ranks.rank else latest(folder)
        for path, wrong in aside:
            path.rename(path.with_name(f"{ASIDE}{step_of(path):08d}"))
            going = f"from step {step_of(good)}, the checkpoint before it" if good else "from the start of this network: there is no other"
            say(f"{path} is damaged ({wrong}) and set aside; training goes on {going}.")
        return good.name if good else ""

    name = ranks.gather(together(ranks, folder, MAKE_ROOM, look) or " ")[0].strip()
    return folder / name if name else None


def save(place: Place, engine: Engine, ema: EMA, stopping: Stopping, ranks: Ranks, exported: Path) -> None:
    """Writes ``checkpoint-<step>`` beside ``exported``; once it is verified, all but the last two go. A collective call.

    Every rank writes its share of the tensors to a folder of another name, and reads it back; rank 0 renames the folder.

    Args:
        place: where training is.
        engine: weights and moments.
        ema: the average.
        stopping: the rule's memory.
        ranks: the processes.
        exported: the best weights so far, if there are any; copied, because they belong to this state.

    Raises:
        UserError: it cannot be written; the checkpoints before it are as they were.
    """
    folder, name = exported.parent, f"{PREFIX}{place.step:08d}"
    partial = folder / f".{name}.partial"

    def write(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, File]:
        file = f"{kind}-{ranks.rank:05d}.safetensors"
        return {file: _write(partial / file, serialise(dict(tensors)))} if tensors else {}

    def begin() -> None:
        if ranks.rank == 0:
            for path in folder.glob(f".{PREFIX}*"):
                shutil.rmtree(path)
            partial.mkdir(parents=True)

    def finish(shares: Sequence[str]) -> None:
        if ranks.rank:
            return
        files: dict[str, File] = {name: file for share in shares for name, file in json.loads(share).items()}
        if exported.exists():
            files[BEST] = _write(partial / BEST, exported.read_bytes())
        for rank, share in enumerate(shares):
            for file in json.loads(share):
                if not (partial / file).exists():
                    found, shared = f"was written by rank {rank} and is not there for rank 0", "a file system that all nodes share"
                    raise UserError(str(partial / file), found, shared, "put `runs` on one")
        content = {
            "phase": place.phase, "seed": place.seed, "step": place.step, "first_batch": place.first_batch, "updates": engine.updates,
            "stopping": stopping.state(), "ledger": None, "world_size": ranks.world_size, "files": files,
        }  # fmt: skip
        write_json(partial / STATE, {**content, "fingerprint": fingerprint(content)})
        _sync(partial / STATE)
        _sync(partial)
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
        _sync(folder)
        _remove(folder, keep=[folder / name, *_newest_first(folder)[1:KEPT]])

    try:
        together(ranks, folder, MAKE_ROOM, begin)
        written: dict[str, File] = {}
        for kind in engine.kinds:
            share = _share(engine.read(kind), ranks)
            written |= together(ranks, folder, MAKE_ROOM, lambda kind=kind, share=share: write(kind, share))  # type: ignore[misc]
        with ema.swapped(engine.masters()):
            share = _share(engine.read("weights"), ranks)
        written |= together(ranks, folder, MAKE_ROOM, lambda: write(AVERAGE, share))
        shares = ranks.gather(json.dumps(written))
        together(ranks, folder, MAKE_ROOM, lambda: finish(shares))
    except BaseException:
        if ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def load(checkpoint: Path, place: Place, engine: Engine, ema: EMA, stopping: Stopping, ranks: Ranks, exported: Path) -> Place:
    """Restores all state, with any number of ranks and any ZeRO stage, and returns where it was written. A collective call.

    Args:
        checkpoint: a good one (:func:`find`).
        place: where training would begin without it.
        engine: takes weights and moments.
        ema: takes the average.
        stopping: takes the rule's memory.
        ranks: the processes.
        exported: gets the best weights that belong to this state.

    Raises:
        UserError: it is of another phase or seed.
    """
    content: dict[str, Any] = read_json(checkpoint / STATE, "the state of a checkpoint")
    if (content["phase"], content["seed"]) != (place.phase, place.seed):
        found = f"is of '{content['phase']}' with seed {content['seed']}"
        raise UserError(str(checkpoint), found, f"'{place.phase}' with seed {place.seed}", "delete it, or put it back where it was")
    with ExitStack() as opened:
        parts = {kind: _Parts(checkpoint, kind, content["files"], opened) for kind in (*engine.kinds, AVERAGE)}
        engine.write("weights", parts[AVERAGE])  # through the engine the average is cut as the weights are
        ema.restore(engine.masters(), content["step"])
        for kind in engine.kinds:
            engine.write(kind, parts[kind])
    engine.updates = int(content["updates"])
    stopping.restore(content["stopping"])

    def put_back() -> None:
        if ranks.rank:
            return
        if BEST not in content["files"]:
            exported.unlink(missing_ok=True)
        else:
            with atomic_path(exported) as temporary:
                shutil.copyfile(checkpoint / BEST, temporary)

    together(ranks, exported, MAKE_ROOM, put_back)
    return Place(content["phase"], content["seed"], int(content["step"]), int(content["first_batch"]))


def remove(folder: Path) -> None:
    """Deletes all checkpoints: whole, partial and damaged."""
    _remove(folder, keep=[])


class _Parts(Mapping[str, Tensor]):
    """Tensors of one kind, read from the files of all ranks when they are asked for."""

    def __init__(self, checkpoint: Path, kind: str, files: Mapping[str, Any], opened: ExitStack) -> None:
        self._places: dict[str, Any] = {}
        for name in files:
            if name.rpartition("-")[0] == kind:
                handle = opened.enter_context(safe_open(checkpoint / name, framework="pt"))
                self._places.update(dict.fromkeys(handle.keys(), handle))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._places[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _share(tensors: Iterator[tuple[str, Tensor]], ranks: Ranks) -> dict[str, Tensor]:
    """This rank's share: each tensor goes to the rank with the fewest bytes so far, which is the same rank on all of them."""
    mine, load = {}, [0] * ranks.world_size
    for name, tensor in tensors:
        owner = load.index(min(load))
        load[owner] += tensor.nbytes
        if owner == ranks.rank:
            mine[name] = tensor.contiguous()
    return mine


def _write(path: Path, content: bytes) -> File:
    """Writes a file through to the disk, reads it back and returns its checksum and size."""
    digest = hashlib.sha256(content).hexdigest()
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read from the disk
    if sha256(path) != digest:
        raise UserError(str(path), "was read back with another content than was written", "a disk that keeps what it is given")
    return {"sha256": digest, "bytes": len(content)}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*"), reverse=True)


def _remove(folder: Path, keep: Sequence[Path]) -> None:
    for pattern in (f"{PREFIX}*", f".{PREFIX}*", f"{ASIDE}*"):
        for path in folder.glob(pattern):
            if path not in keep:
                shutil.rmtree(path, ignore_errors=True)
