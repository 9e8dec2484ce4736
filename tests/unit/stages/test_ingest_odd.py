"""Ingest of odd sources: one strange file, wrong source or edited group costs a message, not the store."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import volgen.data.subject as subject
from volgen.core.errors import UserError
from volgen.data.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.stages.ingest import ingest

CONFIG = IngestConfig(shape=(8, 8, 8), voxel_size=2.0)


def scan(path: Path, seed: int = 0, size: int = 16, voxel: float = 1.0) -> Path:
    """Noise, brighter in one half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).integers(0, 100, (size, size, size)).astype(np.int16)
    voxels[: size // 2] += 200
    nib.save(nib.Nifti1Image(voxels, np.diag([voxel, voxel, voxel, 1.0])), path)
    return path


def people(folder: Path, *labels: str) -> Path:
    for index, label in enumerate(labels):
        scan(folder / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz", index + 10 * len(labels))
    return folder


def groups(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if path.is_dir())


def test_scans_of_impossible_size_are_left_out_with_a_reason(tmp_path: Path) -> None:
    scan(tmp_path / "in" / "sub-good_T1w.nii", 1, size=36)
    scan(tmp_path / "in" / "sub-small_T1w.nii", 2, size=20)
    scan(tmp_path / "in" / "sub-vast_T1w.nii", 3, voxel=1e30)
    scan(tmp_path / "in" / "sub-wide_T1w.nii", 4, voxel=900.0)
    summary = ingest(tmp_path / "in", tmp_path / "store", IngestConfig(shape=(8, 8, 8), voxel_size=12.0))
    reasons = {item.source: item.reason for item in summary.left_out}
    assert [record.id for record in summary.records] == ["sub-good"]
    assert "constant" in reasons["sub-small_T1w.nii"] and "12.0 mm" in reasons["sub-small_T1w.nii"]
    assert "impossible voxel size" in reasons["sub-vast_T1w.nii"]
    assert "grid of 1200 x 1200 x 1200" in reasons["sub-wide_T1w.nii"]


@pytest.mark.parametrize("stage", ["conform", "encode", "write_group"])
def test_any_failure_of_one_scan_is_its_own_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    real, calls = getattr(subject, stage), []

    def failing(*arguments: object) -> object:
        calls.append(stage)
        if len(calls) == 1:
            raise MemoryError("Unable to allocate 9 TiB")
        return real(*arguments)

    monkeypatch.setattr(subject, stage, failing)
    summary = ingest(people(tmp_path / "in", "1", "2"), tmp_path / "store", CONFIG)
    assert [record.id for record in summary.records] == ["sub-2"] and groups(tmp_path / "store") == ["sub-2"]
    assert summary.left_out[0].reason == "cannot be ingested (MemoryError: Unable to allocate 9 TiB)"


def test_a_full_disk_stops_the_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(subject, "write_group", full)
    with pytest.raises(UserError, match=r"cannot be written to \(No space left.*resume"):
        ingest(people(tmp_path / "in", "1"), tmp_path / "store", CONFIG)


def test_an_impossible_shape_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    people(tmp_path / "in", "1")
    for shape in ((100000, 100000, 100000), (40000, 2, 2)):
        with pytest.raises(UserError, match=r"shape: would need a grid of [14]0000"):
            ingest(tmp_path / "in", tmp_path / "store", IngestConfig(shape=shape))
    assert not (tmp_path / "store").exists()


def test_a_refusal_in_a_worker_reaches_the_user(tmp_path: Path) -> None:
    people(tmp_path / "in", "1", "2")
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    scan(tmp_path / "in/sub-2/anat/sub-2_T1w.nii.gz", seed=77)
    with pytest.raises(UserError, match=r"subject sub-2 .*another file"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG, workers=2)


def test_the_wrong_source_writes_nothing_into_a_finished_store(tmp_path: Path) -> None:
    right, wrong = people(tmp_path / "right", "1", "2"), people(tmp_path / "wrong", "0", "9")
    ingest(right, tmp_path / "store", CONFIG)
    with pytest.raises(UserError, match="holds sub-1, sub-2, which"):
        ingest(wrong, tmp_path / "store", CONFIG)
    assert groups(tmp_path / "store") == ["sub-1", "sub-2"]
    assert ingest(right, tmp_path / "store", CONFIG).resumed == 2


def test_another_data_set_with_the_same_names_writes_nothing(tmp_path: Path) -> None:
    right, wrong = people(tmp_path / "right", "1", "2"), people(tmp_path / "wrong", "0", "1", "2")
    ingest(right, tmp_path / "store", CONFIG)
    with pytest.raises(UserError, match="another file"):
        ingest(wrong, tmp_path / "store", CONFIG)
    assert groups(tmp_path / "store") == ["sub-1", "sub-2"]


def test_a_source_without_bids_names_is_warned_about(tmp_path: Path) -> None:
    for index, label in enumerate(("bert", "ernie")):
        scan(tmp_path / "in" / label / "mri" / "T1.mgz", index)
    summary = ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert [record.patient for record in summary.records] == ["bert", "ernie"]
    assert any("no file is named sub-<label>" in warning and "2 people, 2 scans" in warning for warning in summary.warnings)
    named = ingest(people(tmp_path / "named", "1", "2"), tmp_path / "other", CONFIG)
    assert not any("sub-<label>" in warning for warning in named.warnings)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), "x"])
def test_an_edited_manifest_is_refused(tmp_path: Path, number: object) -> None:
    ingest(people(tmp_path / "in", "1"), tmp_path / "store", CONFIG)
    manifest = tmp_path / "store" / "manifest.json"
    for section, key in (("codes", "slope"), ("intensity", "low")):
        content = json.loads(manifest.read_text())
        content["subjects"][0][section][key] = number
        edited = tmp_path / "store" / "manifest.json"
        whole = manifest.read_bytes()
        edited.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"manifest\.json.*run the same ingest again"):
            Store.open(tmp_path / "store")
        manifest.write_bytes(whole)


@pytest.mark.parametrize("key", ["file", "record", "voxels", "kept"])
def test_an_edited_group_is_refused_by_name(tmp_path: Path, key: str) -> None:
    ingest(people(tmp_path / "in", "1", "2"), tmp_path / "store", CONFIG)
    path = tmp_path / "store" / "sub-2" / "zarr.json"
    content = json.loads(path.read_text())
    del content["attributes"]["volgen"][key]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"sub-2: is not a whole group.*Delete this folder"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)
