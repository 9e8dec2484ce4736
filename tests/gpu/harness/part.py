"""What every part of the GPU check works with: where it computes, how large it is, and where its figures go."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from volgen.core.manifest import peak_memory_bytes

DEVICE, WORK, RECORD = "VOLGEN_CHECK_DEVICE", "VOLGEN_CHECK_WORK", "VOLGEN_CHECK_RECORD"
"""Variables in which the check tells a part where it computes, where it may write, and into which file of JSON lines its figures go."""
GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """How large the check is.

    Attributes:
        people: of the sample cohort, in the store that most parts train on.
        shape: of that store.
        voxel: of that store, in mm.
        widths: of the networks that are trained on it.
        large: edge of the large volumes.
        large_voxel: of those, in mm.
        large_widths: of the networks of the large volumes, as configs/brain256_experts8.yaml has them if None.
        large_people: in the store of large volumes.
        batch: large volumes in a step.
        steps: of the network that the large experts start from.
        levels: noise levels at which a large volume is sampled.
    """

    people: int
    shape: tuple[int, int, int]
    voxel: float
    widths: tuple[int, ...]
    large: int
    large_voxel: float
    large_widths: tuple[int, ...] | None
    large_people: int
    batch: int
    steps: int
    levels: int


SIZES = {
    "cpu": Sizes(12, (16, 16, 16), 14.0, (8, 8), 16, 14.0, (8, 8), 8, 2, 3, 8),
    "cuda": Sizes(24, (40, 48, 40), 4.0, (32, 64), 256, 1.0, None, 8, 4, 12, 16),
}


@dataclass(frozen=True)
class Part:
    """A part of the check while it runs.

    Attributes:
        device: ``cuda``, or ``cpu`` for the form that runs anywhere.
        work: folder in which parts share what they make.
        record: file of JSON lines; None prints.
        sizes: how large everything is.
    """

    device: str
    work: Path
    record: Path | None
    sizes: Sizes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", SIZES[self.device])

    @classmethod
    def of_environment(cls, scratch: Path) -> Part:
        """What the check has told this process; without it, the small form in ``scratch``."""
        device = os.environ.get(DEVICE, "cpu")
        record = os.environ.get(RECORD)
        return cls(device, Path(os.environ.get(WORK) or scratch), Path(record) if record else None)

    def say(self, name: str, value: float | str, unit: str = "", **beside: float | str | None) -> None:
        """Records a figure at once: what is killed a moment later has told it."""
        append(self.record, {"figure": name, "value": value, "unit": unit, **beside})

    def made(self) -> None:
        """Makes sure of the stores: ``STORE`` and ``LARGE``, of the first people of the sample cohort."""
        sizes = self.sizes
        for store, people, shape, voxel in (
            ("STORE", sizes.people, sizes.shape, sizes.voxel),
            ("LARGE", sizes.large_people, (sizes.large,) * 3, sizes.large_voxel),
        ):
            if not (self.work / store / "manifest.json").exists():
                began = time.monotonic()
                scans = self._scans(people)
                options = ("--voxel-size", str(voxel), "--validation", "0.25", "--test", "0")
                volgen("ingest", scans, self.work / store, "--shape", *map(str, shape), *options)
                self.say(f"ingest of {people} scans at {shape[0]} x {shape[1]} x {shape[2]}", time.monotonic() - began, "s")

    def _scans(self, people: int) -> Path:
        everybody, scans = self.work / "COHORT", self.work / f"SCANS{people}"
        if not everybody.exists():
            volgen("cohort", everybody)
        if not scans.exists():
            shutil.copytree(everybody, scans, ignore=shutil.ignore_patterns("sub-*"))
            for folder in sorted(everybody.glob("sub-*"))[:people]:
                shutil.copytree(folder, scans / folder.name)
        return scans

    def config(self, name: str, **sections: Mapping[str, Any]) -> Path:
        """A small run ``runs/NAME`` on ``STORE``; ``sections`` are merged into it."""
        whole: dict[str, Any] = {
            "name": name, "runs": str(self.work / "runs"), "seed": 5,
            "data": {"store": str(self.work / "STORE"), "shape": list(self.sizes.shape), "batch_size": 4, "workers": 2},
            "schedule": {"kind": "log_snr", "points": 6, "sigma_max": 20.0},
            "network": {"kind": "wavelet_unet3d", "channels": list(self.sizes.widths), "norm_groups": 4},
            "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 2},
            "experts": {"count": 1},
            "optimiser": {"warmup_steps": 2, "learning_rate": 1e-3},
            "stopping": {"max_steps": 4, "min_steps": 1, "validate_every": 4, "validation_volumes": 2, "validation_draws": 1},
        }  # fmt: skip
        return self._write(name, whole, sections)

    def large_config(self, name: str, **sections: Mapping[str, Any]) -> Path:
        """``configs/brain256_experts8.yaml`` on ``LARGE``, shortened to a few steps; ``sections`` are merged into it."""
        whole = yaml.safe_load((Path(__file__).parents[3] / "configs" / "brain256_experts8.yaml").read_text())
        sizes = self.sizes
        whole |= {"name": name, "runs": str(self.work / "runs")}
        whole["data"] |= {"store": str(self.work / "LARGE"), "shape": [sizes.large] * 3, "batch_size": sizes.batch}
        whole["experts"] |= {"shared_steps": sizes.steps}
        # A step is left to every expert, so that there is a bank to sample from.
        whole["stopping"] |= {"max_steps": 1, "min_steps": 1, "validate_every": 1, "validation_volumes": 1}
        if sizes.large_widths is not None:
            whole["network"] |= {"channels": list(sizes.large_widths)}
            whole["preconditioner"] |= {"rank": 2}
        return self._write(name, whole, sections)

    def _write(self, name: str, whole: dict[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> Path:
        for section, values in sections.items():
            before = whole.get(section, {})
            # Another kind has other keys.
            whole[section] = dict(values) if values.get("kind", before.get("kind")) != before.get("kind") else {**before, **values}
        path = self.work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(whole))
        return path

    def run(self, name: str) -> Path:
        """The directory of a run."""
        return self.work / "runs" / name

    def losses(self, name: str) -> list[float]:
        """Of every step of a run, in order."""
        lines = (self.run(name) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    def on_the_cpu(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A command of volgen in a process of its own that sees no GPU."""
        return apart([sys.executable, "-m", "volgen", *map(str, words)], CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu", limit=240)

    @contextlib.contextmanager
    def peak(self) -> Iterator[dict[str, float]]:
        """Most memory of the device inside the block, in bytes, filled in at its end; on a CPU the most that this process ever took.

        ``allocated`` is what tensors took, ``reserved`` what torch kept for them, and ``in_all`` has context and libraries too.
        """
        found: dict[str, float] = {}
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        yield found
        if self.device == "cuda":
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            beside = total - free - torch.cuda.memory_reserved()
            allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            found.update(allocated=float(allocated), reserved=float(reserved), in_all=float(reserved + beside))
        else:
            found.update(dict.fromkeys(("allocated", "reserved", "in_all"), float(peak_memory_bytes())))


def append(record: Path | None, line: Mapping[str, Any]) -> None:
    """Adds a line to a part's record."""
    text = json.dumps(line)
    if record is None:
        print(text, flush=True)
        return
    with record.open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def volgen(*words: str | Path | float, code: int = 0) -> str:
    """A command of volgen in this process; returns what it printed.

    Raises:
        AssertionError: it ended with another exit code than ``code``; with the end of what it said.
    """
    from volgen.cli import main

    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        found = main([str(word) for word in words])
    assert found == code, f"volgen {' '.join(map(str, words))} ended with {found}, not {code}: {said.getvalue()[-3000:]}"
    return printed.getvalue()


def apart(command: Sequence[str], limit: float, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, with some variables more; one that hangs is killed after ``limit`` seconds."""
    # The check's own variables would make a test of what is started.
    kept = {name: value for name, value in os.environ.items() if name not in (RECORD, "RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **variables}, timeout=limit, check=False)


def apart_by(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest difference of two lists of numbers, relative to the larger of each pair; infinite if one is longer or not finite."""
    if len(one) != len(other) or not one:
        return float("inf")
    ratios = [abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in zip(one, other, strict=True)]
    return max(ratio if ratio == ratio else float("inf") for ratio in ratios)
