"""Damaged files: every file that a command reads is changed in some way; the command refuses it, or the change makes no difference."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from nursery import Done
from scene import GRID, Result, Scene, differences, result
from tally import End, Tally

Count = Callable[[str, str], AbstractContextManager[Tally]]
BINARY = ("flip", "flip", "flip", "cut", "zero", "empty", "gone", "random", "folder")
TEXT = ("flip", "flip", "digit", "digit", "digit", "cut", "zero", "empty", "gone", "folder")
UNREADABLE = tuple(kind for kind in BINARY if kind not in ("gone", "folder"))
"""A folder of images from which one was taken is a folder of images."""
SEED = 7
ABOUT_THE_RUN = {"RunFingerprint", "run_fingerprint", "fingerprint", "inputs", "files"}
"""What an output says of the files it was made from, which tells of every change to them and is no difference in the output itself."""


@dataclass(frozen=True)
class Target:
    """Files of one kind, and the command that reads them.

    Attributes:
        base: what is copied, and damaged in the copy.
        files: pattern of those that are.
        kinds: of damage, each as often as it stands here.
        short: trials in the short form.
        full: trials in the full form.
        words: the command, given the copy and a folder for its output.
        mended: the command writes into the copy, and what it makes of it counts.
        named: the command may go on without the damaged file, if it says its name.
    """

    base: str
    files: str
    kinds: Sequence[str]
    short: int
    full: int
    words: Callable[[Scene, Path, Path], list[object]]
    mended: bool = False
    named: bool = False


def _read(scene: Scene, store: Path, out: Path) -> list[object]:
    return ["acts:read_store", store]


def _ingest(scene: Scene, store: Path, out: Path) -> list[object]:
    return ["ingest", scene.scans, store, *GRID]


def _export(scene: Scene, store: Path, out: Path) -> list[object]:
    return ["export", store, "--out", out]


def _sample(scene: Scene, run: Path, out: Path) -> list[object]:
    return ["sample", run, "--out", out, "--count", "1", "--seed", "5"]


def _train(scene: Scene, run: Path, out: Path) -> list[object]:
    return ["train", "--config", scene.config, "--runs", run.parent]


def _sample_more(scene: Scene, samples: Path, out: Path) -> list[object]:
    return ["sample", scene.run, "--out", samples, "--count", "3", "--seed", "5"]


def _judge(scene: Scene, samples: Path, out: Path) -> list[object]:
    return ["report", samples, "--reference", scene.bands, "--out", out]


def _judge_by(scene: Scene, report: Path, out: Path) -> list[object]:
    return ["report", scene.samples, "--reference", report / "bands.json", "--out", out]


TARGETS = {
    "store: shard": Target("store", "sub-*/0/c/0/0/0", BINARY, 2, 40, _read),
    "store: array's zarr.json": Target("store", "sub-*/0/zarr.json", TEXT, 3, 60, _read),
    "store: group's zarr.json": Target("store", "sub-*/zarr.json", TEXT, 1, 20, _read),
    "store: manifest.json": Target("store", "manifest.json", TEXT, 4, 60, _read),
    "store: manifest.json, exported": Target("store", "manifest.json", TEXT, 1, 20, _export),
    "store: zarr.json, ingested again": Target("store", "zarr.json", TEXT, 2, 20, _ingest, mended=True),
    "store: group's zarr.json, ingested again": Target("store", "sub-*/zarr.json", TEXT, 3, 30, _ingest, mended=True),
    "store: shard, ingested again": Target("store", "sub-*/0/c/0/0/0", BINARY, 2, 20, _ingest, mended=True),
    "store: array's zarr.json, ingested again": Target("store", "sub-*/0/zarr.json", TEXT, 1, 20, _ingest, mended=True),
    "run: weights": Target("runs/tiny", "experts/[01]/weights.safetensors", BINARY, 2, 15, _sample),
    "run: preconditioner.safetensors": Target("runs/tiny", "preconditioner.safetensors", BINARY, 2, 15, _sample),
    "run: preconditioner.json": Target("runs/tiny", "preconditioner.json", TEXT, 2, 10, _sample),
    "run: ensemble.json": Target("runs/tiny", "ensemble.json", TEXT, 4, 50, _sample),
    "run: geometry.json": Target("runs/tiny", "geometry.json", TEXT, 3, 40, _sample),
    "run: config.yaml": Target("runs/tiny", "config.yaml", TEXT, 4, 50, _sample),
    "run: privacy_ledger.json": Target("runs/tiny", "privacy_ledger.json", TEXT, 2, 20, _sample),
    "run: manifest.json": Target("runs/tiny", "manifest.json", TEXT, 2, 20, _sample),
    "run: any file, trained again": Target("runs/tiny", "**/*[!.]*.[jsy]*", TEXT, 3, 60, _train, mended=True),
    "unfinished run: weights, trained on": Target("half/tiny", "experts/*/weights.safetensors", BINARY, 1, 15, _train, mended=True),
    "unfinished run: preconditioner, trained on": Target("half/tiny", "preconditioner*", BINARY, 2, 30, _train, mended=True),
    "unfinished run: phase.json, trained on": Target("half/tiny", "experts/*/phase.json", TEXT, 2, 30, _train, mended=True),
    "unfinished run: metrics.jsonl, trained on": Target("half/tiny", "metrics.jsonl", TEXT, 2, 30, _train, mended=True, named=True),
    "unfinished run: other files, trained on": Target("half/tiny", "[cgm]*[!l]", TEXT, 3, 40, _train, mended=True),
    "report: bands.json": Target("report", "bands.json", TEXT, 4, 50, _judge_by),
    "samples: image": Target("samples", "**/*.nii.gz", UNREADABLE, 2, 15, _judge, named=True),
    "samples: manifest.json, continued": Target("samples", "manifest.json", TEXT, 2, 20, _sample_more, mended=True),
    "samples: sidecar, continued": Target("samples", "**/sub-*.json", TEXT, 1, 10, _sample_more, mended=True),
    "samples: image, continued": Target("samples", "**/*.nii.gz", BINARY, 1, 10, _sample_more, mended=True),
}


def damage(path: Path, kind: str, draw: random.Random) -> str:
    """Damages a file; returns what was done."""
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    digits = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
    if kind == "digit" and digits:  # a number that is still one: what no parser notices
        place = draw.choice(digits)
        content[place] = draw.choice([byte for byte in range(48, 58) if byte != content[place]])
        what = f"digit {place} changed: {bytes(content[max(0, place - 25) : place + 15])!r}"
    elif kind in ("flip", "digit"):
        content[place] ^= 1 << draw.randrange(8)
        what = f"a bit of byte {place} flipped: {bytes(content[max(0, place - 12) : place + 12])!r}"
    elif kind == "cut":
        what, content = f"cut to {place} of {len(content)} bytes", content[:place]
    elif kind == "zero":
        end = min(len(content), place + draw.randrange(1, 64))
        content[place:end] = bytes(end - place)
        what = f"bytes {place} to {end} zeroed"
    elif kind == "random":
        what, content = "random bytes", bytearray(draw.randbytes(len(content)))
    elif kind == "empty":
        what, content = "emptied", bytearray()
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return "deleted" if kind == "gone" else "a folder in its place"
    path.write_bytes(content)
    return what


def outcome(scene: Scene, target: Target, copy: Path) -> tuple[Done, Result]:
    """What the command makes of a copy: of its own output, or of the copy itself."""
    out = copy.parent.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    done = scene.nursery.run(*target.words(scene, copy, out))
    if target.mended:
        return done, result(copy)
    found = result(out, ABOUT_THE_RUN)
    found.pop("statement.html", None)
    return done, {**found, "said": done.said if target.words is _read else ""}


def end_of(done: Done, found: Result, expected: Result, named: str) -> End:
    if done.refused or (named and done.code == 0 and f"{named}: " in done.said):
        return "refused"
    return "survived" if done.code == 0 and found == expected else "lost"


@pytest.fixture(scope="session")
def half(scene: Scene) -> Path:
    """A run of which one network is still to be trained."""
    runs = scene.folder / "half"
    scene.run_well("train", "--config", scene.config, "--runs", runs, "--only", "shared")
    scene.run_well("train", "--config", scene.config, "--runs", runs, "--only", "1:2")
    return runs


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_refused_or_makes_no_difference(name: str, scene: Scene, half: Path, tally: Count, full: bool) -> None:
    target = TARGETS[name]
    base = scene.folder / target.base
    copy = scene.folder / "damaged" / "copy" / base.name  # a run's folder is called as it is
    draw = random.Random(f"{SEED}/{name}")

    def fresh() -> Path:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(base, copy)
        return copy

    done, expected = outcome(scene, target, fresh())
    assert done.code == 0, str(done)
    with tally("damaged file", name) as line:
        for _ in range(target.full if full else target.short):
            kind = draw.choice(target.kinds)
            path = draw.choice(sorted(path for path in fresh().glob(target.files) if path.is_file() and path.stat().st_size))
            what = damage(path, kind, draw)
            done, found = outcome(scene, target, copy)
            different = differences(found, expected)[:6]
            end = end_of(done, found, expected, path.name if target.named else "")
            line.add(end, f"{path.relative_to(copy)}: {what}; {done}; differs in {different}")
