"""What leaves the machine says which files it was made with, and not where on the machine they lay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from volgen import cli
from volgen.core.files import sha256
from volgen.operators import composed
from volgen.runs.instrument import as_told

TEXTS = {".json", ".tsv", ".csv", ".html", ".md", ".yaml", ".jsonl", ".txt", ""}
STEPS = ("--steps", "2", "--device", "cpu")


@pytest.fixture
def machine(made_by_0_1_0: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of somebody's machine: a run, a store, a scan, and images that operators read. Volumes have 16 x 16 x 16 voxels."""
    (scan,) = sorted((made_by_0_1_0 / "samples").glob("sub-0001*.nii.gz"))
    image: Any = nib.load(scan)
    seen = np.zeros(image.shape, np.float32)
    seen[:, :, : image.shape[2] // 2] = 1
    for name, voxels in (("seen", seen), ("bright", 1 + seen / 4), ("scan", image.get_fdata().astype(np.float32))):
        nib.save(nib.Nifti1Image(voxels, image.affine), made_by_0_1_0 / f"{name}.nii.gz")
    monkeypatch.chdir(made_by_0_1_0.parent)
    return made_by_0_1_0


def commands(at: Path) -> dict[str, list[str]]:
    """Words of commands that are given paths, by the folder that each writes."""
    run, store, scan, seen, bright = (
        str(at / name) for name in ("runs/finished", "cohort.zarr", "scan.nii.gz", "seen.nii.gz", "bright.nii.gz")
    )
    masked = ["--operator", "inpaint", "--operator.mask", seen, "--guidance", "projection", *STEPS]
    parts = json.dumps([{"kind": "bias", "field": bright}, {"kind": "inpaint", "mask": seen}])
    return {
        "sampled": ["sample", run, "--count", "1", "--data", scan, *masked],
        "filled": ["reconstruct", run, "--count", "1", "--data", scan, *masked],
        "composed": [
            "reconstruct", run, "--count", "1", "--simulate", store, "--split", "train", "--people", "1", "--operator", "composed",
            "--operator.parts", parts, "--guidance", "energy", *STEPS,
        ],
        "hidden": ["anonymise", scan, run, "--epsilon", "1e6", "--delta", "1e-5", "--accept-vacuous", "--centre", scan, "--device", "cpu"],
        "tuned": [
            "tune", run, "--simulate", store, "--people", "1", "--trials", "1", "--operator", "inpaint", "--operator.mask", seen,
            "--guidance", "energy", *STEPS,
        ],
        "exported": ["export", store],
        "reported": ["report", str(at / "samples"), "--reference", store],
    }  # fmt: skip


@pytest.mark.parametrize("out", ["sampled", "filled", "composed", "tuned", "hidden", "exported", "reported"])
def test_no_file_says_where_others_lay(machine: Path, out: str) -> None:
    words = [*commands(machine)[out], "--out", out]
    assert cli.main(words) == 0
    folder = machine.parent / out
    said = {path: path.read_text() for path in folder.rglob("*") if path.is_file() and path.suffix in TEXTS}
    assert len(said) >= 3
    assert not [path.relative_to(folder) for path, text in said.items() if str(machine.parent) in text]
    config = json.loads((folder / "manifest.json").read_text())["config"]
    assert ("operator_files" in config) == (out in {"sampled", "filled", "composed", "tuned"})
    if "operator_files" in config:
        seen, bright = (sha256(machine / name) for name in ("seen.nii.gz", "bright.nii.gz"))
        expected = {"parts.0.field": bright, "parts.1.mask": seen} if out == "composed" else {"mask": seen}
        assert config["operator_files"] == expected
        assert (config["operator"]["parts"][1] if out == "composed" else config["operator"])["mask"] == "seen.nii.gz"
        assert cli.main(words) == 0, "the same command continues it"
        (machine / "moved").mkdir()
        moved = [word.replace(str(machine / "seen"), str(machine / "moved/seen")) for word in words]
        (machine / "seen.nii.gz").rename(machine / "moved/seen.nii.gz")
        assert cli.main(moved) == 0, "a file is known by name and content, wherever it lies"
        nib.save(nib.Nifti1Image(np.ones((16, 16, 16), np.float32), np.eye(4)), machine / "moved/seen.nii.gz")
        assert cli.main(moved) == 2


def test_a_folder_that_an_older_version_began_is_continued(machine: Path, older: Callable[[Path, dict[str, Any]], None]) -> None:
    words = [*commands(machine)["filled"], "--out", "filled"]
    assert cli.main(words) == 0
    older(machine.parent / "filled/manifest.json", {"mask": str(machine / "seen.nii.gz")})
    assert cli.main(words) == 0
    older(machine.parent / "filled/manifest.json", {"mask": str(machine / "bright.nii.gz")})
    assert cli.main(words) == 2


@pytest.fixture
def older() -> Callable[[Path, dict[str, Any]], None]:
    """Puts settings of an operator into a manifest, as volgen 0.3.0 wrote them."""
    from volgen.core.seal import sealed

    def changed(manifest: Path, operator: dict[str, Any]) -> None:
        content = json.loads(manifest.read_text())
        content["config"]["operator"] |= operator
        manifest.write_text(json.dumps(sealed({key: value for key, value in content.items() if key != "seal"})))

    return changed


def test_parts_of_a_composed_operator_had_no_checksums(tmp_path: Path) -> None:
    operator = composed.Config(parts=({"kind": "bias"}, {"kind": "inpaint", "mask": str(tmp_path / "seen.nii.gz")}, {"kind": "no such"}))
    assert operator.named_files == {"parts.1.mask": tmp_path / "seen.nii.gz"}
    parts = operator.model_dump(mode="json")["parts"]
    (tmp_path / "seen.nii.gz").write_bytes(b"a mask")
    files = {"parts.1.mask": sha256(tmp_path / "seen.nii.gz")}
    mine = {"operator": {"parts": [parts[0], parts[1] | {"mask": "seen.nii.gz"}, parts[2]]}, "operator_files": files}
    assert as_told({"operator": {"parts": parts}}, mine) == mine
    elsewhere = [parts[0], parts[1] | {"mask": str(tmp_path / "other/seen.nii.gz")}, parts[2]]
    assert as_told({"operator": {"parts": elsewhere}}, mine) != mine, "nobody knows what that one was"
    damaged: Any
    for damaged in (None, [], {"operator": 3}, {"operator": {"parts": [1]}}, {"operator": [1]}):
        assert as_told(damaged, mine) != mine
