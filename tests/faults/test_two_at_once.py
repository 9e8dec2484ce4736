"""Two commands at once in one folder: it ends as one of them alone would have left it, and whoever was refused knows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from nursery import Done
from scene import GRID, PEOPLE, Result, Scene, differences, result
from tally import Tally

Count = Callable[[str, str], AbstractContextManager[Tally]]
GAPS = (0.0, 0.1)
"""Seconds between the starts, in the short form."""
ALL_GAPS = (0.0, 0.0, 0.0, 0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Pair:
    """Two commands that write into one place.

    Attributes:
        first: words of the one.
        second: words of the other.
        random: each makes another thing whenever it is called, so only one may succeed.
    """

    first: list[object]
    second: list[object]
    random: bool = False


def pairs(scene: Scene, out: Path) -> dict[str, Pair]:
    export = ["export", scene.store, "--out", out / "export"]
    sample = ["sample", scene.run, "--out", out / "samples", "--count", "2"]
    report = ["--reference", scene.bands, "--out", out / "report"]
    ingest = ["ingest", scene.scans, out / "store"]
    train = ["train", "--config", scene.config, "--runs", out]
    statement = ["statement", scene.run, "--out", out / "statement"]
    audit = ["audit", scene.run, "--members", scene.store, "--non-members", scene.folder / "strangers", "--out", out / "audit",
             "--count", "0", "--levels", "2", "--draws", "1"]  # fmt: skip
    one = next(scene.scans.rglob("*.nii.gz"))
    release = ["anonymise", one, scene.run, "--out", out / "scan", "--epsilon", "1e5", "--delta", "1e-5", "--accept-vacuous"]
    return {
        "export, twice the same": Pair(export, export),
        "export, other types of voxels": Pair(export, [*export, "--dtype", "int16"]),
        "sample, twice the same": Pair([*sample, "--seed", "1"], [*sample, "--seed", "1"]),
        "sample, other seeds": Pair([*sample, "--seed", "1"], [*sample, "--seed", "2"]),
        "report, twice the same": Pair(["report", scene.samples, *report], ["report", scene.samples, *report]),
        "report, other volumes": Pair(["report", scene.samples, *report], ["report", scene.folder / "others", *report]),
        "ingest, twice the same": Pair([*ingest, *GRID], [*ingest, *GRID]),
        "ingest, other grids": Pair([*ingest, *GRID], [*ingest, "--shape", "12", "--voxel-size", "16", "--workers", "1"]),
        "train, twice the same": Pair(train, train),
        "train, other seeds": Pair(train, [*train, "--seed", "4"]),
        "statement, twice the same": Pair(statement, statement),
        "audit, twice the same": Pair(audit, audit),
        "anonymise, twice": Pair(release, release, random=True),
    }


NAMES = (
    "export, twice the same", "export, other types of voxels", "sample, twice the same", "sample, other seeds", "report, twice the same",
    "report, other volumes", "ingest, twice the same", "ingest, other grids", "train, twice the same", "train, other seeds",
    "statement, twice the same", "audit, twice the same", "anonymise, twice",
)  # fmt: skip


def alone(scene: Scene, words: list[object], out: Path) -> Result:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    done = scene.nursery.run(*words)
    assert done.code in (0, 1), str(done)  # an audit that found something ends with 1
    return result(out)


def together(scene: Scene, first: list[object], second: list[object], gap: float) -> tuple[Done, Done]:
    one = scene.nursery.start(*first)
    time.sleep(gap)
    other = scene.nursery.start(*second)
    return one.wait(), other.wait()


def judge(pair: Pair, done: tuple[Done, Done], expected: tuple[Result, Result], found: Result) -> str:
    """What is wrong; empty if nothing is."""
    well = [each.code in (0, 1) and "Traceback" not in each.said for each in done]
    if not all(good or each.refused for good, each in zip(well, done, strict=True)):
        return "ended as neither done nor refused"
    if not any(well):
        return "both were refused"
    if pair.random:
        return "both were done" if all(well) else "files are missing" if found.keys() != expected[0].keys() else ""
    if all(well) and expected[0] != expected[1]:
        return "both were done, and one of them was not"
    left = min((differences(found, each) for each, good in zip(expected, well, strict=True) if good), key=len)
    return f"differs in {left[:8]}" if left else ""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("others", "strangers")
def test_two_at_once(name: str, scene: Scene, tally: Count, full: bool) -> None:
    out = scene.folder / "together"
    pair = pairs(scene, out)[name]
    expected = alone(scene, pair.first, out), alone(scene, pair.second, out)
    with tally("two at once", name) as line:
        for gap in ALL_GAPS if full else GAPS:
            shutil.rmtree(out)
            out.mkdir()
            done = together(scene, pair.first, pair.second, gap)
            wrong = judge(pair, done, expected, result(out))
            end = "lost" if wrong else "refused" if any(each.refused for each in done) else "survived"
            line.add(end, f"{gap} s apart: {wrong}; {done[0]}; {done[1]}")


@pytest.fixture(scope="session")
def others(scene: Scene) -> Path:
    """Volumes that are not the scene's samples."""
    others = scene.folder / "others"
    if not others.exists():
        others.mkdir()
        for scan in sorted(scene.scans.rglob("*.nii.gz"))[:2]:
            scene.run_well("ingest", scan, scene.folder / "one" / scan.name, *GRID)
            scene.run_well("export", scene.folder / "one" / scan.name, "--out", others / f"of {scan.name[:-7]}")
    return others


@pytest.fixture(scope="session")
def strangers(scene: Scene) -> Path:
    """A store of people whom the scene's run has never seen."""
    people, store = scene.folder / "unseen", scene.folder / "strangers"
    for person in sorted((scene.folder / "cohort").glob("sub-*"))[PEOPLE : PEOPLE + 5]:
        shutil.copytree(person, people / person.name)
    shutil.copy(scene.scans / "dataset_description.json", people)
    scene.run_well("ingest", people, store, *GRID)
    return store


@pytest.mark.timeout(3600)
def test_training_on_a_store_that_is_being_made(scene: Scene, tally: Count, full: bool) -> None:
    store, runs = scene.folder / "together" / "store", scene.folder / "together" / "runs"
    ingest = ["ingest", scene.scans, store, *GRID]
    train = ["train", "--config", scene.config, "--runs", runs, "--data.store", store]
    expected = alone(scene, ingest, store.parent)
    trained = alone(scene, train, runs)
    with tally("two at once", "ingest, and train on its store") as line:
        for gap in ALL_GAPS if full else GAPS:
            shutil.rmtree(store.parent)
            store.parent.mkdir()
            done = together(scene, ingest, train, gap)
            found = result(store.parent)
            own = {path: what for path, what in found.items() if not path.startswith("runs/")}
            good = done[0].code == 0 and own == expected
            good &= (done[1].refused and not runs.exists()) or (done[1].code == 0 and result(runs) == trained)
            end = "lost" if not good else "refused" if done[1].refused else "survived"
            line.add(end, f"{gap} s apart: {done[0]}; {done[1]}; {list(found)[:9]}")
