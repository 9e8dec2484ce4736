"""Provenance: every directory that a command writes holds a ``manifest.json``."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import volgen
from volgen.core.files import write_json

NAME = "manifest.json"


def git_revision() -> str | None:
    """Revision of the checkout that volgen runs from ("-dirty" if it was changed), or None for an installed package."""
    folder = Path(volgen.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@dataclass
class Provenance:
    """What a stage knows of itself; :meth:`write` adds time and memory.

    Attributes:
        stage: name of the command.
        config: resolved configuration or options, JSON-able.
        inputs: fingerprints of what was read.
        seed: the seed, or None where nothing was drawn.
        measured: whether wall time and peak memory are written. Not in a folder that may be released: they follow from what was read, such
            as the size of one person's scan.
    """

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    seed: int | None = None
    measured: bool = True
    _started: float = field(default_factory=time.monotonic)

    def write(self, directory: Path, **more: Any) -> dict[str, Any]:
        """Writes ``manifest.json`` atomically and returns its content; ``more`` adds keys of the stage's own."""
        content: dict[str, Any] = {
            "stage": self.stage,
            "volgen_version": volgen.__version__,
            "git_revision": git_revision(),
            "config": dict(self.config),
            "inputs": dict(self.inputs),
            "seed": self.seed,
            "axis_order": "RAS+ (x to the right, y to the front, z to the top)",
            "units": {"space": "mm", "intensity": "arbitrary"},
            **self._measures(),
            **more,
        }
        write_json(directory / NAME, content)
        return content

    def _measures(self) -> dict[str, Any]:
        if not self.measured:
            return {}
        return {"wall_seconds": round(time.monotonic() - self._started, 3), "peak_memory_bytes": peak_memory_bytes()}
