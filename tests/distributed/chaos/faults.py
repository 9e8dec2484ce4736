"""What can go wrong: each fault waits for its moment, strikes a running job, and says how it should end."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranks import Job

from volgen.core.exit_codes import BAD_INPUT, RANK_LOST, SAVED
from volgen.training import checkpoint


@dataclass
class Scene:
    """One round while it lasts.

    Attributes:
        job: the running ranks.
        run: the run directory.
        random: of this round.
        nodes: the two network namespaces, if there are any.
        patience: seconds to wait for a moment.
    """

    job: Job
    run: Path
    random: random.Random
    nodes: Any
    patience: float

    @property
    def phase(self) -> Path:
        """Folder of the only expert."""
        return self.run / "experts" / "0"

    def until(self, happened: Callable[[], object]) -> None:
        """Waits until something has happened or the job has ended."""
        end = time.monotonic() + self.patience
        while not happened() and self.job.running() and time.monotonic() < end:
            time.sleep(0.002)

    def checkpoint(self, least: int = 0) -> None:
        """Waits for a random number of checkpoints, and a little more."""
        wanted = self.random.randrange(least, 7) * 4
        self.until(lambda: (self.run / "config.yaml").exists() and (wanted == 0 or checkpoint.step_of(_newest(self.phase)) >= wanted))
        time.sleep(self.random.uniform(0, 0.4))


@dataclass(frozen=True)
class Struck:
    """What was done.

    Attributes:
        what: for the table.
        when: ``time.monotonic`` of the moment.
        codes: the exit codes that ranks may have now.
        messages: how many messages for the user there should be.
        contains: what the first one must say.
        undo: puts the world in order before the relaunch.
        then: number of ranks and ZeRO stage of the relaunch.
    """

    what: str
    when: float
    codes: tuple[set[int], ...]
    messages: int
    contains: str
    undo: Callable[[], None] = lambda: None
    then: tuple[int, int] = (2, 2)


def kill(scene: Scene) -> Struck:
    """SIGKILL of one rank at a random moment."""
    rank = scene.random.randrange(2)
    scene.checkpoint()
    return _killed(scene, rank, f"SIGKILL of rank {rank}")


def kill_in_write(scene: Scene) -> Struck:
    """SIGKILL of one rank while a checkpoint is being written."""
    rank = scene.random.randrange(2)
    scene.checkpoint()
    scene.until(lambda: any(scene.phase.glob(".checkpoint-*.partial")))
    time.sleep(scene.random.uniform(0, 0.03))
    inside = any(scene.phase.glob(".checkpoint-*.partial"))
    return _killed(scene, rank, f"SIGKILL of rank {rank} {'inside' if inside else 'just after'} a checkpoint write")


def stop(scene: Scene) -> Struck:
    """SIGSTOP: the process is there and says nothing."""
    rank = scene.random.randrange(2)
    scene.checkpoint()
    scene.job.send(rank, signal.SIGSTOP)
    codes: list[set[int]] = [{RANK_LOST}, {RANK_LOST}]
    codes[rank] = {-signal.SIGKILL}
    return Struck(f"SIGSTOP of rank {rank}", time.monotonic(), tuple(codes), 1, f"rank {rank} on")


def cut(scene: Scene) -> Struck:
    """The cable of the second node is pulled; each side can only speak for itself."""
    scene.checkpoint()
    scene.nodes.cut(1)
    found = ({RANK_LOST}, {RANK_LOST})
    return Struck("network of node 1 cut", time.monotonic(), found, 2, "rank 1 on", undo=lambda: scene.nodes.heal(1))


def terminate(scene: Scene) -> Struck:
    """A scheduler's signal, to one rank or to both."""
    number = scene.random.choice([signal.SIGTERM, signal.SIGUSR1])
    ranks = scene.random.choice([[0], [1], [0, 1]])
    scene.checkpoint()
    for rank in ranks:
        scene.job.send(rank, number)
    return Struck(f"{number.name} to rank {' and '.join(map(str, ranks))}", time.monotonic(), ({SAVED}, {SAVED}), 0, "")


def reshape(scene: Scene) -> Struck:
    """SIGTERM, and the run goes on with another number of ranks or another ZeRO stage."""
    then = scene.random.choice([(1, 0), (1, 3), (2, 0), (2, 1), (2, 3)])
    scene.checkpoint()
    scene.job.send(0, signal.SIGTERM)
    what = f"SIGTERM, then {then[0]} rank{'s' * (then[0] - 1)} at stage {then[1]} instead of 2 at 2"
    return Struck(what, time.monotonic(), ({SAVED}, {SAVED}), 0, "", then=then)


def full_disk(scene: Scene) -> Struck:
    """The file system of the run gets full."""
    scene.checkpoint(least=1)
    filler = scene.run.parent / "filler"
    when = time.monotonic()
    with filler.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(1 << 16)):
                pass
        except OSError:
            pass
    return Struck("disk full", when, ({BAD_INPUT}, {BAD_INPUT}), 1, "No space left on device", undo=filler.unlink)


def damage(scene: Scene) -> Struck:
    """Both ranks are killed and a file of the newest checkpoint is cut, changed or lost."""
    scene.until(lambda: checkpoint.step_of(_newest(scene.phase)) >= 8)
    scene.checkpoint(least=2)
    for rank in (0, 1):
        scene.job.send(rank, signal.SIGKILL)
    when = time.monotonic()
    scene.job.wait(10)
    newest = _newest(scene.phase)
    assert newest is not None
    victim = scene.random.choice(sorted(path for path in newest.iterdir()))
    how = scene.random.choice(["cut in half", "one bit flipped", "lost"])
    content = bytearray(victim.read_bytes())
    if how == "lost":
        victim.unlink()
    elif how == "cut in half":
        victim.write_bytes(content[: len(content) // 2])
    else:
        content[scene.random.randrange(len(content))] ^= 1 << scene.random.randrange(8)
        victim.write_bytes(content)
    codes = ({-signal.SIGKILL}, {-signal.SIGKILL})
    return Struck(f"both killed, {victim.name} of the newest checkpoint {how}", when, codes, 0, "")


def _killed(scene: Scene, rank: int, what: str) -> Struck:
    scene.job.send(rank, signal.SIGKILL)
    codes: list[set[int]] = [{RANK_LOST}, {RANK_LOST}]
    codes[rank] = {-signal.SIGKILL}
    return Struck(what, time.monotonic(), tuple(codes), 1, f"rank {rank} on")


def _newest(folder: Path) -> Path | None:
    return max(folder.glob("checkpoint-*"), default=None)


FAULTS: dict[str, Callable[[Scene], Struck]] = {
    "kill": kill, "kill_in_write": kill_in_write, "stop": stop, "cut": cut,
    "terminate": terminate, "full_disk": full_disk, "damage": damage, "reshape": reshape,
}  # fmt: skip


def clean(path: Path) -> None:
    """Removes a finished round's files."""
    shutil.rmtree(path, ignore_errors=True)
