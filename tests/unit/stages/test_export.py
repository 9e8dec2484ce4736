"""Export: names, sidecars, refusals. What it does to voxels is in tests/numerics/test_roundtrip.py."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen.core.errors import UserError
from volgen.data.preprocess import IngestConfig
from volgen.stages.export import bids_name, export
from volgen.stages.ingest import ingest


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
    names = ["sub-leftbrain_T1w", "sub-01_ses-2_T1w", "sub-02_T1w"]
    assert sorted(f.name for f in files) == sorted(f"{name}.nii.gz" for name in names)
    expected = {f"{name}{end}" for name in names for end in (".nii.gz", ".json")} | {"dataset_description.json", "manifest.json"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == expected
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "volgen"
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["stage"] == "export"
    image = nib.load(tmp_path / "out" / "sub-02_T1w.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S") and image.get_data_dtype() == np.int16


def test_one_scan_in_ras(store: Path, tmp_path: Path) -> None:
    (file,) = export(store, tmp_path / "out", ids=["sub-02"], orientation="RAS")
    assert nib.aff2axcodes(nib.load(file).affine) == ("R", "A", "S")


def test_unknown_scans_and_full_folders_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'sub-02'"):
        export(store, tmp_path / "out", ids=["sub-03"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UserError, match="not empty"):
        export(store, tmp_path / "full")


def test_an_interrupted_export_can_be_given_again(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("volgen.stages.export._sidecar", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(store, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "out" / ".export-killed").mkdir()
    files = export(store, tmp_path / "out")
    assert all(file.is_file() and file.parent == tmp_path / "out" for file in files) and (tmp_path / "out" / "manifest.json").is_file()
    assert not list((tmp_path / "out").glob(".*")), "no scan of an export that was killed"


@pytest.mark.parametrize(
    ("identity", "name"), [("sub-01_ses-1_run-2", "sub-01_ses-1_run-2"), ("scan.7 b", "sub-scan7b"), ("sub-1_T2w", "sub-sub1T2w")]
)
def test_bids_names(identity: str, name: str) -> None:
    assert bids_name(identity) == name
