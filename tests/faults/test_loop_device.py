"""The power goes on a real file system: ext4 in an image, which is copied while a command writes, and mounted again from its journal.

Only in the full form, and as root: it needs loop devices.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from scene import Scene, differences, result
from tally import Tally

Count = Callable[[str, str], AbstractContextManager[Tally]]
SNAPSHOTS = {"ingest": 12, "train": 16, "sample": 8, "export": 8, "report": 6}
"""Copies while the command runs, beside three after its end."""
OPTIONS = {"ext4": "loop", "ext4, names before data": "loop,data=writeback,noauto_da_alloc,commit=1"}
"""As people mount it, and as it is allowed to be."""
MIB = 48


def shell(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


@pytest.fixture
def disk(scene: Scene, full: bool) -> Iterator[Path]:
    """A folder for an image and a mount point of it."""
    if not full:
        pytest.skip("only in the full form: --faults full")
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    if os.geteuid() or missing:
        pytest.skip(f"loop devices need root{' and ' + ', '.join(missing) if missing else ''}")
    folder = scene.folder / "disk"
    folder.mkdir(exist_ok=True)
    shell("truncate", "-s", f"{MIB}M", folder / "empty.img")
    shell("mkfs.ext4", "-q", "-F", folder / "empty.img")
    try:
        with mounted(folder / "empty.img", folder / "mount", "loop"):
            pass
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine mounts no loop devices: {error.stderr.decode().strip()}")
    yield folder
    shutil.rmtree(folder)


@contextmanager
def mounted(image: Path, place: Path, options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    shell("mount", "-o", options, image, place)
    try:
        yield
    finally:
        shell("umount", place)


def copied(image: Path, copy: Path) -> None:
    """What the disk holds at this moment: what has not left the page cache of the file system is not in the image."""
    for _ in range(20):
        content = image.read_bytes()
        if image.read_bytes() == content:
            break
    copy.write_bytes(content)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", SNAPSHOTS)
def test_the_same_command_ends_as_if_the_power_had_not_gone(name: str, options: str, scene: Scene, disk: Path, tally: Count) -> None:
    image, place = disk / "now.img", disk / "mount"
    out, draw = place / "out", random.Random(f"{name}/{options}")
    started = time.monotonic()
    with mounted(disk / "empty.img", place, "loop"):
        expected = scene.undisturbed(name, out)
        shutil.rmtree(out)
    lasts = time.monotonic() - started
    copies: list[tuple[str, Path]] = []
    shutil.copy(disk / "empty.img", image)
    with mounted(image, place, OPTIONS[options]):
        out.mkdir()
        os.sync()
        child = scene.nursery.start(*scene.command(name, out))
        for _ in range(SNAPSHOTS[name]):
            time.sleep(draw.uniform(0, 2) * lasts / SNAPSHOTS[name])
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGSTOP)
            copies.append((f"{time.monotonic() - child.started:.2f} s after its start", disk / f"{len(copies)}.img"))
            copied(image, copies[-1][1])
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGCONT)
        done = child.wait()
        assert done.code == 0, str(done)
        for pause in (0.0, 0.5, 1.5):
            time.sleep(pause)
            copies.append((f"{pause} s after its end", disk / f"{len(copies)}.img"))
            copied(image, copies[-1][1])
    with tally(f"power cut on a loop device ({options})", name) as line:
        for when, copy in copies:
            with mounted(copy, place, OPTIONS[options]):
                out.mkdir(exist_ok=True)
                lost = differences(result(out), expected) if "end" in when else []
                done = scene.nursery.run(*scene.command(name, out))
                found = differences(result(out), expected)
            copy.unlink()
            good = (done.code == 0 or done.refused) and not found and not lost
            line.add("survived" if good else "lost", f"{when}: lost {lost[:8]}; {done}; differs in {found[:8]}")
