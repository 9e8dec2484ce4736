"""Provenance of a directory."""

from __future__ import annotations

import json
from pathlib import Path

import volgen
from volgen.core.manifest import Provenance, git_revision, peak_memory_bytes


def test_manifest_has_what_the_design_asks_for(tmp_path: Path) -> None:
    written = Provenance("sample", {"steps": 3}, {"run": "abc"}, seed=5).write(tmp_path, volumes=["a"])
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content == written
    assert content["volgen_version"] == volgen.__version__
    assert (content["stage"], content["config"], content["inputs"], content["seed"]) == ("sample", {"steps": 3}, {"run": "abc"}, 5)
    assert content["volumes"] == ["a"]
    assert content["axis_order"].startswith("RAS+")
    assert content["units"]["space"] == "mm"
    assert content["wall_seconds"] >= 0
    assert content["peak_memory_bytes"] > 10 * 2**20


def test_peak_memory_counts_this_process_in_bytes() -> None:
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        assert abs(peak_memory_bytes() - peak) < 0.05 * peak
    else:
        assert peak_memory_bytes() > 10 * 2**20


def test_revision_is_a_commit_or_absent() -> None:
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("-dirty")) == 40
