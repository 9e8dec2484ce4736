"""Provenance of a directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import volgen
from volgen.core.errors import UserError
from volgen.core.files import write_json, write_text
from volgen.core.manifest import Differences, Provenance, checksums, git_revision, peak_memory_bytes, verify
from volgen.core.seal import sealed


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


def test_a_directory_that_differs_from_its_manifest_is_told_how(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "sub/e.txt"):
        write_text(tmp_path / name, name)
    Provenance("trial", {}, {}).write(tmp_path, files=checksums(tmp_path))
    (tmp_path / ".lock").touch()
    assert not verify(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.txt").write_text("b.txt!")
    (tmp_path / "c.txt").unlink()
    (tmp_path / "c.txt").mkdir()
    (tmp_path / "sub").rename(tmp_path / "elsewhere")
    (tmp_path / "sub").symlink_to(tmp_path / "elsewhere")
    found = verify(tmp_path)
    assert found == Differences(("a.txt",), ("b.txt",), ("c.txt", "sub/e.txt"), ("elsewhere/e.txt",))
    assert str(found).startswith("a.txt is missing; b.txt is changed; c.txt, sub/e.txt are not regular files; elsewhere/e.txt is not in")
    assert not verify(tmp_path, names={"d.txt"})
    assert verify(tmp_path, names={"b.txt"}).changed == ("b.txt",)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"stage": "trial"', '"stage": "other"'))
    with pytest.raises(UserError, match="was changed after it was written"):
        verify(tmp_path)


def test_a_manifest_of_0_1_0_agrees_with_anything_and_a_forged_one_leads_nowhere(tmp_path: Path) -> None:
    Provenance("trial", {}, {}).write(tmp_path)
    (tmp_path / "a.txt").touch()
    assert not verify(tmp_path)
    for files in ([], {"../a": "0"}, {"/etc/passwd": "0"}, {"a.txt": 3}):
        write_json(tmp_path / "manifest.json", sealed({"files": files}))
        with pytest.raises(UserError, match="its 'files' have another form"):
            verify(tmp_path)
