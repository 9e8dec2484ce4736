"""Processes are killed at random moments, several times in a row; the same command then ends as if nothing had been.

What a kill leaves after each single call is in test_power_cut.py; here real signals meet real processes, threads and ranks.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from nursery import Child
from scene import Result, Scene, differences, result
from tally import Tally

Count = Callable[[str, str], AbstractContextManager[Tally]]
COMMANDS = {"ingest": (1, 25), "train": (1, 40), "sample": (1, 25), "export": (1, 25), "report": (1, 20)}
"""Rounds in the short and in the full form; each has up to three kills."""
SEED = 3


def gone(child: Child, seconds: float = 20.0) -> bool:
    """Whether nothing of a command is left running soon after its end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_goes_on_after_kills(name: str, scene: Scene, tally: Count, full: bool) -> None:
    out, draw = scene.folder / "killed" / name, random.Random(f"{SEED}/{name}")
    started = time.monotonic()
    expected = scene.undisturbed(name, out)
    lasts = time.monotonic() - started
    with tally("kill -9 of a process", name) as line:
        for _ in range(COMMANDS[name][full]):
            shutil.rmtree(out)
            out.mkdir()
            said = []
            for _ in range(draw.randint(1, 3)):
                child = scene.nursery.start(*scene.command(name, out))
                time.sleep(draw.uniform(0, lasts))
                child.kill()
                said.append(f"killed after {child.wait().seconds:.2f} s")
                if not gone(child):
                    said.append("something of it still runs")
            done = scene.nursery.run(*scene.command(name, out))
            found = differences(result(out), expected)
            # A command that had ended may refuse to be done again.
            good = (done.code == 0 or done.refused) and not found and "something of it still runs" not in said
            line.add("survived" if good else "lost", f"{', '.join(said)}: {done}; differs in {found[:8]}")


def ranks(scene: Scene, out: Path) -> list[Child]:
    """Two ranks of one training."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = str(probe.getsockname()[1])
    common: Mapping[str, str] = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = scene.command("train", out)
    return [scene.nursery.start(*words, environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]


def trained(scene: Scene, out: Path) -> tuple[list[str], Result]:
    """Lets two ranks train to the end; what they said if they did not, and the result."""
    done = [child.wait() for child in ranks(scene, out)]
    return [str(each) for each in done if each.code], result(out)


@pytest.mark.distributed
@pytest.mark.timeout(3600)
def test_two_ranks_go_on_after_one_was_killed(scene: Scene, tally: Count, full: bool) -> None:
    out, draw = scene.folder / "killed" / "ranks", random.Random(f"{SEED}/ranks")
    out.mkdir(parents=True)
    started = time.monotonic()
    failed, expected = trained(scene, out)
    lasts = time.monotonic() - started
    assert not failed, failed
    with tally("kill -9 of a process", "train, one of two ranks") as line:
        for _ in range(15 if full else 1):
            shutil.rmtree(out)
            out.mkdir()
            both, victim = ranks(scene, out), draw.randrange(2)
            time.sleep(draw.uniform(0.2, 1) * lasts)
            both[victim].kill()
            left, _ = both[1 - victim].wait(60), both[victim].wait(60)
            failed, found = trained(scene, out)
            wrong = differences(found, expected)
            # The one that is left says so at once, after 15 s at most; or both had ended.
            good = left.code in (75, 0, 2) and not failed and not wrong and all(map(gone, both))
            line.add("survived" if good else "lost", f"rank {victim} killed: {left}; {failed}; differs in {wrong[:8]}")
