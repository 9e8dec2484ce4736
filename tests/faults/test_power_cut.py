"""The power goes: every command is recorded call by call, and given again on what a disk may hold after each of its calls."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import disk
import pytest
from disk import Loss, Recording, State
from nursery import Nursery
from scene import Scene, differences, result, spread
from tally import Tally

Count = Callable[[str, str], AbstractContextManager[Tally]]
COMMANDS = {"ingest": 8, "train": 8, "sample": 4, "export": 6, "report": 4, "statement": 3}
"""How many cuts the short form makes in each; the full form makes all."""
LOSSES: Sequence[Loss] = ("data", "names", "folders", "mixed")


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nursery, Path]]:
    """A nursery under strace, and the folder of its logs."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (apt install strace)")
    folder = tmp_path_factory.mktemp("traced")
    tracer = disk.tracer(folder / "calls")
    tried = subprocess.run([*tracer, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"strace cannot trace here: {tried.stderr.strip()}")
    nursery = Nursery(folder, tracer)
    yield nursery, folder
    nursery.close()


@pytest.fixture(scope="session")
def record(scene: Scene, traced: tuple[Nursery, Path]) -> Callable[[str], Recording]:
    """Records a command, once."""
    nursery, folder = traced
    known: dict[str, Recording] = {}

    def once(name: str) -> Recording:
        if name not in known:
            out = place(scene, name)
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            before = set(folder.glob("calls.*"))
            done = nursery.run(*scene.command(name, out))
            assert done.code == 0, str(done)
            logs = sorted(set(folder.glob("calls.*")) - before)
            known[name] = Recording(logs, out)
            wrong = known[name].check()
            assert not wrong, f"{name}: the recorder does not know how these were written: {wrong}"
        return known[name]

    return once


def place(scene: Scene, name: str) -> Path:
    """Where a command is recorded and given again: some outputs name their own place."""
    return scene.folder / "cut" / name


def survive(scene: Scene, name: str, states: Sequence[tuple[str, State]], line: Tally) -> None:
    """Gives the command again on each state; all have to end as the undisturbed one."""
    out = place(scene, name)
    expected = scene.undisturbed(name, out)
    for what, state in states:
        disk.put(state, out)
        done = scene.nursery.run(*scene.command(name, out))
        found = differences(result(out), expected)
        good = (done.code == 0 or done.refused) and not found  # one that had ended may refuse to be done again
        line.add("survived" if good else "lost", f"{what}: {done}; differs in {found[:8]}")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_ends_as_if_the_power_had_not_gone(
    name: str, scene: Scene, record: Callable[[str], Recording], tally: Count, full: bool
) -> None:
    recording = record(name)
    cuts = spread(recording.states(LOSSES), COMMANDS[name], full)
    states = [(f"{loss} lost after call {step} ({recording.told[step - 1] if step else 'none'})", state) for step, loss, state in cuts]
    with tally("power cut", name) as line:
        survive(scene, name, states, line)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_was_said_to_be_done_survives_a_power_cut(name: str, scene: Scene, record: Callable[[str], Recording], tally: Count) -> None:
    recording, out = record(name), place(scene, name)
    expected = scene.undisturbed(name, out)
    with tally("power cut after the end", name) as line:
        for loss in LOSSES:
            disk.put(recording.state(recording.steps, loss), out)
            found = differences(result(out), expected)
            line.add("lost" if found else "survived", f"{loss}: {found[:8]}")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_ends_as_if_it_had_not_been_killed(
    name: str, scene: Scene, record: Callable[[str], Recording], tally: Count, full: bool
) -> None:
    recording = record(name)
    kills = spread(recording.states(["nothing"]), COMMANDS[name] // 2, full)
    states = [(f"killed after call {step} ({recording.told[step - 1] if step else 'none'})", state) for step, _, state in kills]
    with tally("kill -9 after every call", name) as line:
        survive(scene, name, states, line)


def test_a_recording_knows_what_is_certain(traced: tuple[Nursery, Path]) -> None:
    nursery, folder = traced
    root = folder / "known"
    root.mkdir()
    before = set(folder.glob("calls.*"))
    assert nursery.run("acts:write_this_and_that", root).code == 0
    recording = Recording(sorted(set(folder.glob("calls.*")) - before), root)
    assert recording.check() == []
    at = {what: step for step, what in enumerate(recording.told, 1)}
    final, renamed = recording.steps, at["rename new to kept"]
    assert recording.state(renamed, "nothing") == {"kept": b"first"}
    assert recording.state(renamed, "data") == {"kept": b"first"}  # its data was synced
    assert recording.state(renamed, "names") == {"new": b"first"}  # its new name was not
    assert recording.state(renamed, "folders") == {}
    assert recording.state(final, "folders") == {"kept": b"first", "inner": None}
    assert recording.state(final, "data") == {"kept": b"first", "inner": None, "inner/copy": b"", "inner/log": b""}
    assert recording.state(final, "nothing") == {"kept": b"firstmore", "inner": None, "inner/copy": b"firstmore", "inner/log": b"ABcd"}
