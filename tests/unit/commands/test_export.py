"""Export: names, sidecars, refusals. What it does to voxels is in tests/numerics/test_roundtrip.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen.commands.export.export import bids_name, export
from volgen.commands.ingest.ingest import ingest
from volgen.core.errors import UserError
from volgen.core.manifest import verify
from volgen.data.ingest.preprocess import IngestConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "in").mkdir()
    for index, name in enumerate(["sub-01_ses-2_T1w", "left brain", "sub-02_T1w"]):
        voxels = np.random.default_rng(index).integers(0, 99, (6, 7, 8)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([-1, -1, 1, 1.0])), folder / "in" / f"{name}.nii.gz")
    ingest(folder / "in", folder / "store", IngestConfig(shape=None, voxel_size=None))
    return folder / "store"


def test_folder_is_a_bids_derivative_with_a_manifest(store: Path, tmp_path: Path) -> None:
    files = export(store, tmp_path / "out", dtype="int16")
    names = ["sub-leftbrain/anat/sub-leftbrain_T1w", "sub-01/ses-2/anat/sub-01_ses-2_T1w", "sub-02/anat/sub-02_T1w"]
    assert sorted(file.relative_to(tmp_path / "out").as_posix() for file in files) == sorted(f"{name}.nii.gz" for name in names)
    expected = {f"{name}{end}" for name in names for end in (".nii.gz", ".json")}
    expected |= {"dataset_description.json", "manifest.json", "README.md", ".bidsignore"}
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()} == expected
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "volgen"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["stage"] == "export"
    image = nib.load(tmp_path / "out" / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S") and image.get_data_dtype() == np.int16


def test_the_bids_validator_accepts_an_export(tmp_path: Path, bids_errors: Callable[[Path], list[str]]) -> None:
    names = [
        "sub-01_ses-2_acq-x_run-2_T1w", "left brain", "sub-02_space-MNI_desc-preproc_T1w", "sub-3_run-a_res-2_T1w", "sub-4_desc-x_T1w",
        "sub-5.7",
    ]  # fmt: skip
    (tmp_path / "in").mkdir()
    for index, name in enumerate(names):
        voxels = np.random.default_rng(index).integers(0, 99, (6, 7, 8)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")
    ingest(tmp_path / "in", tmp_path / "store", IngestConfig(shape=None, voxel_size=None, every=True))  # of two spaces
    assert len(export(tmp_path / "store", tmp_path / "out")) == len(names)
    assert bids_errors(tmp_path / "out") == []


def test_a_sidecar_says_whether_it_is_a_brain_or_a_head(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, edge in (("sub-brain", 12), ("sub-head", 16)):
        voxels = np.zeros((20, 20, 20), np.int16)
        voxels[:edge, :edge, :edge] = np.random.default_rng(0).integers(400, 600, (edge, edge, edge))
        nib.save(nib.Nifti1Image(voxels, np.diag([10.0, 10.0, 10.0, 1.0])), tmp_path / "in" / f"{name}_T1w.nii.gz")
    ingest(tmp_path / "in", tmp_path / "store", IngestConfig(shape=None, voxel_size=None))
    sidecars = [
        json.loads((f.parent / f.name.replace(".nii.gz", ".json")).read_text()) for f in export(tmp_path / "store", tmp_path / "out")
    ]
    assert [sidecar["SkullStripped"] for sidecar in sidecars] == [True, False], "1.7 and 4.1 litres"


def test_one_scan_in_ras(store: Path, tmp_path: Path) -> None:
    (file,) = export(store, tmp_path / "out", ids=["sub-02"], orientation="RAS")
    assert nib.aff2axcodes(nib.load(file).affine) == ("R", "A", "S")


def test_unknown_scans_and_full_folders_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'sub-02'"):
        export(store, tmp_path / "out", ids=["sub-03"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match=r"holds other files \(x\)"):
        export(store, tmp_path / "full")


def test_an_interrupted_export_can_be_given_again(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("volgen.commands.export.export._sidecar", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".export-killed").mkdir()  # of volgen 0.1.0
    files = export(store, tmp_path / "out")
    assert (
        all(file.is_file() and file.is_relative_to(tmp_path / "out") for file in files) and (tmp_path / "out" / "manifest.json").is_file()
    )
    assert not list((tmp_path / "out").glob(".export-*")), "no scan of an export that was killed"


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        ("sub-01_ses-1_run-2", "sub-01_ses-1_run-2"),
        ("scan.7 b", "sub-scan7b"),
        ("sub-1_T2w", "sub-1_desc-T2w"),
        ("sub-1_space-MNI_desc-x", "sub-1_desc-spaceMNIdescx"),
    ],
)
def test_bids_names(identity: str, name: str) -> None:
    assert bids_name(identity) == name


PAUSED = """
import sys
from volgen.core.manifest import Provenance

write = Provenance.write

def paused(self, *args, **more):
    content = write(self, *args, **more)
    if not content["complete"]:
        print("begun", flush=True)
        input()
    return content

Provenance.write = paused
from volgen.cli import main

sys.exit(main(sys.argv[1:]))
"""


def test_of_two_exports_into_one_folder_one_is_whole_and_the_other_is_refused(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", PAUSED, "export", str(store), "--out", str(out)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "begun\n"
    with pytest.raises(UserError, match=rf"is being written by .*process {first.pid}"):
        export(store, out, dtype="int16")
    _, error = first.communicate("\n")
    assert first.returncode == 0, error
    assert not verify(out) and len(list(out.rglob("*.nii.gz"))) == 3
    assert not [path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".bidsignore"]


def test_a_killed_export_can_be_given_again_and_one_that_fails_leaves_nothing(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", PAUSED, "export", str(store), "--out", str(out)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "begun\n"
    first.kill()
    first.communicate()
    assert json.loads((out / "manifest.json").read_text())["complete"] is False
    (out / "sub-old" / "anat").mkdir(parents=True)  # as a killed export of other scans leaves them
    (out / "sub-old" / "anat" / "sub-old_T1w.nii.gz").touch()
    export(store, out, ids=["sub-02"])
    assert [path.name for path in out.rglob("*.nii.gz")] == ["sub-02_T1w.nii.gz"] and not verify(out)
    with pytest.raises(UserError, match="is not empty: it holds the output of volgen export"):
        export(store, out, ids=["sub-02"])
