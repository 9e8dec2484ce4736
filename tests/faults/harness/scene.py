"""What faults are injected into: a small cohort and everything that volgen makes of it, and what two outcomes have in common."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from nursery import Done, Nursery

PEOPLE, FEW = 10, 3
GRID = ("--shape", "16", "--voxel-size", "12", "--workers", "1")
VOLATILE = {"wall_seconds", "peak_memory_bytes", "git_revision", "seal"}
"""What two equal runs differ in; a seal is the checksum of the JSON that it is in."""
CONFIG: Mapping[str, Any] = {
    "name": "tiny", "seed": 3,
    "data": {"shape": [16, 16, 16], "batch_size": 2, "workers": 1},
    "schedule": {"kind": "log_snr", "points": 4},
    "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
    "preconditioner": {"kind": "gaussian", "levels": 2, "rank": 2},
    "experts": {"count": 2, "shared_steps": 2},
    "stopping": {"max_steps": 4, "validate_every": 2, "validation_draws": 1, "validation_volumes": 2},
    "engine": {"checkpoint_every": 2, "dead_after": 15.0, "hung_after": 100.0},
}  # fmt: skip
Result = dict[str, str]
"""Path of each file and a digest of what it says, without what varies from run to run."""


@dataclass(frozen=True)
class Scene:
    """Inputs of all commands, made by undisturbed ones."""

    folder: Path
    nursery: Nursery

    @property
    def scans(self) -> Path:
        return self.folder / "scans"

    @property
    def few(self) -> Path:
        """Some of the scans, for commands that are given hundreds of times."""
        return self.folder / "few"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "tiny"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def bands(self) -> Path:
        return self.folder / "report" / "bands.json"

    def command(self, name: str, out: Path) -> list[object]:
        """The words of a command that writes into ``out``."""
        commands: dict[str, list[object]] = {
            "ingest": ["ingest", self.few, out / "store", *GRID],
            "train": ["train", "--config", self.config, "--runs", out],
            "sample": ["sample", self.run, "--out", out / "samples", "--count", "2", "--seed", "5"],
            "export": ["export", self.store, "--out", out / "export"],
            "report": ["report", self.samples, "--reference", self.bands, "--out", out / "report"],
            "statement": ["statement", self.run, "--out", out / "statement"],
        }
        return commands[name]

    def run_well(self, *words: object) -> Done:
        """Runs what has to succeed."""
        done = self.nursery.run(*words)
        assert done.code == 0, f"volgen {' '.join(map(str, words))}: {done}"
        return done

    def undisturbed(self, name: str, out: Path) -> Result:
        """What a command makes of an empty folder."""
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        self.run_well(*self.command(name, out))
        return result(out)


def make(folder: Path) -> Scene:
    """A scene in an empty folder."""
    scene = Scene(folder, Nursery(folder))
    scene.run_well("cohort", folder / "cohort")
    for person in sorted((folder / "cohort").glob("sub-*"))[:PEOPLE]:
        shutil.copytree(person, scene.scans / person.name)
    shutil.copy(folder / "cohort" / "dataset_description.json", scene.scans)
    shutil.copytree(scene.scans, scene.few, ignore=lambda _, names: sorted(name for name in names if name.startswith("sub-"))[FEW:])
    content = {**CONFIG, "runs": str(scene.run.parent), "data": {**CONFIG["data"], "store": str(scene.store)}}
    scene.config.write_text(yaml.safe_dump(content))
    scene.run_well("ingest", scene.scans, scene.store, *GRID)
    scene.run_well("train", "--config", scene.config)
    scene.run_well("sample", scene.run, "--out", scene.samples, "--count", "2", "--seed", "5")
    scene.run_well("report", scene.samples, "--reference", scene.store, "--out", scene.bands.parent)
    return scene


def result(out: Path, without: Collection[str] = ()) -> Result:
    """What a folder says: every file in it but locks and curves for TensorBoard, hidden ones too.

    Args:
        out: the folder.
        without: keys of JSON objects that are left out, beside those that vary from run to run.
    """
    return dict(_result(out, VOLATILE | set(without)))


def _result(out: Path, without: Set[str]) -> Iterator[tuple[str, str]]:
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.name.endswith(".lock") or "tensorboard" in path.relative_to(out).parts:
            continue
        if path.is_dir():
            if not any(path.iterdir()):
                yield name, "empty folder"
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            try:
                content = json.dumps(steady(json.loads(content), without), sort_keys=True).encode()
            except ValueError:
                content += b"no JSON"
        yield name, hashlib.sha256(content).hexdigest()


def steady(content: Any, without: Set[str]) -> Any:
    """JSON without some keys."""
    if isinstance(content, dict):
        kept = {key: value for key, value in content.items() if key not in without and not key.startswith("tensorboard/")}
        return {key: steady(value, without) for key, value in kept.items()}
    return [steady(value, without) for value in content] if isinstance(content, list) else content


def differences(one: Result, other: Result) -> list[str]:
    """Paths in which two results differ."""
    return sorted(path for path in {*one, *other} if one.get(path) != other.get(path))


def spread(items: Sequence[Any], count: int, full: bool) -> list[Any]:
    """All items in the full form; in the short one so many of them, evenly spread, with the last one."""
    if full or len(items) <= count:
        return list(items)
    return [items[round((place + 1) * (len(items) - 1) / count)] for place in range(count)]
