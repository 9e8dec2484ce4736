"""Ingest of odd sources: one strange file, wrong source or edited group costs a message, not the store."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr

import volgen.data.ingest.subject as subject
from volgen.commands.ingest.ingest import ingest
from volgen.core.errors import UserError
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store

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


@pytest.mark.parametrize("stage", ["open_frame", "encode", "write_group"])
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


@pytest.mark.parametrize("names", [("zarr.json", "manifest.json"), ("__init", "x" * 240)])
def test_a_name_that_the_store_needs_costs_nobody(tmp_path: Path, names: tuple[str, ...]) -> None:
    for seed, name in enumerate((*names, "good")):
        scan(tmp_path / "in" / f"{name}.nii", seed)
    summary = ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert len(summary.records) == 3 and not summary.left_out
    assert len(Store.open(tmp_path / "store").records) == 3
    assert {f"scan-{name}" for name in names if len(name) < 100} <= {record.id for record in summary.records}
    assert ingest(tmp_path / "in", tmp_path / "store", CONFIG).resumed == 3


def test_zarr_python_has_nothing_to_say_of_a_store(tmp_path: Path) -> None:
    ingest(people(tmp_path / "in", "1", "2"), tmp_path / "store", CONFIG)
    program = (
        "import sys, zarr; group = zarr.open_group(sys.argv[1], mode='r'); names = [name for name, _ in group.members(max_depth=None)];"
        "print(sorted(names)); print(sorted(group), sorted(group.groups())[0][1].attrs['ome']['version'], group['sub-2/0'][:].mean())"
    )
    arguments = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "store")]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert shown.returncode == 0 and not shown.stderr, shown.stderr
    assert shown.stdout.splitlines()[0] == str([f"sub-{p}{rest}" for p in "12" for rest in ("", "/0", "/1", "/2", "/3", "/nifti")])
    # What is listed in the root is what the groups say themselves.
    root = json.loads((tmp_path / "store" / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    for node, content in root.items():
        own = json.loads((tmp_path / "store" / node / "zarr.json").read_text())
        assert own == {key: value for key, value in content.items() if key != "consolidated_metadata"}
    # People who are added later are listed too.
    ingest(people(tmp_path / "in", "3"), tmp_path / "store", CONFIG)
    assert sorted(zarr.open_group(str(tmp_path / "store"), mode="r")) == ["sub-1", "sub-2", "sub-3"]


def affine(attributes: dict) -> None:
    attributes["volgen"]["record"]["affine"][0][3] += 5.0


def window(attributes: dict) -> None:
    attributes["volgen"]["record"]["intensity"]["low"] -= 50.0


def patient(attributes: dict) -> None:
    attributes["volgen"]["record"]["patient"] = "sub-2"


def placed(attributes: dict) -> None:
    attributes["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][1]["translation"][0] += 1.0


def unsealed(attributes: dict) -> None:
    """As a group of 0.1.0."""
    del attributes["volgen"]["seal"], attributes["volgen"]["files"]


@pytest.mark.parametrize("change", [affine, window, patient, placed])
@pytest.mark.parametrize("finished", [True, False])
def test_metadata_that_were_changed_are_not_adopted(tmp_path: Path, change: Callable[[dict], None], finished: bool) -> None:
    ingest(people(tmp_path / "in", "1", "2"), tmp_path / "store", CONFIG)
    path = tmp_path / "store" / "sub-1" / "zarr.json"
    content = json.loads(path.read_text())
    change(content["attributes"])
    path.write_text(json.dumps(content))
    manifest = (tmp_path / "store" / "manifest.json").read_bytes()
    if not finished:
        (tmp_path / "store" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"sub-1: is not a whole group.*: its metadata .*Delete this folder"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert not finished or (tmp_path / "store" / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("change", [affine, window, patient])
def test_metadata_of_a_store_of_0_1_0_that_were_changed_are_not_adopted(tmp_path: Path, change: Callable[[dict], None]) -> None:
    ingest(people(tmp_path / "in", "1", "2"), tmp_path / "store", CONFIG)
    path = tmp_path / "store" / "sub-1" / "zarr.json"
    content = json.loads(path.read_text())
    unsealed(content["attributes"])
    path.write_text(json.dumps(content))
    assert ingest(tmp_path / "in", tmp_path / "store", CONFIG).resumed == 2, "whole, as 0.1.0 wrote it"
    change(content["attributes"])
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="sub-1"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", ["0/c/0/0/0", "0/zarr.json", "nifti/c/0"])
def test_damaged_files_of_a_scan_are_found_on_resuming(tmp_path: Path, name: str, sealed: bool) -> None:
    ingest(people(tmp_path / "in", "1", "2"), tmp_path / "store", CONFIG)
    group = tmp_path / "store" / "sub-2"
    if not sealed:
        content = json.loads((group / "zarr.json").read_text())
        unsealed(content["attributes"])
        (group / "zarr.json").write_text(json.dumps(content))
    data = bytearray((group / name).read_bytes())
    data[len(data) // 3] ^= 0x10
    (group / name).write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"sub-2: is not a whole group.*Delete this folder"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG)


def test_a_scan_does_not_change_hands(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        scan(tmp_path / "in" / f"{name}.nii", seed)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    (tmp_path / "t.tsv").write_text("scan\tpatient\na\tAnn\nb\tAnn\n")
    with pytest.raises(UserError, match=r"was of a \(train\), and is of Ann \(validation\) now"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG, patients=tmp_path / "t.tsv")


def test_the_manifest_says_how_people_were_told(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("scan\tpatient\na\tAnn\nb\tAnn\n")
    for seed, name in enumerate(
        ("files/a.nii", "files/b.nii", "folders/x/T1.nii", "folders/y/T1.nii", "mixed/sub-1_T1w.nii", "mixed/c.nii",
         "visits/ses1/P1.nii", "visits/ses2/P1.nii", "years/2020/P1.nii", "years/2021/P1.nii", "numbers/1/T1.nii", "numbers/2/T1.nii",
         "dated/P1_20200101/T1.nii", "dated/P2_20200101/T1.nii")
    ):  # fmt: skip
        scan(tmp_path / name, seed)
    people(tmp_path / "bids", "1", "2")
    for kind, told in {"files": "files", "folders": "folders", "bids": "bids", "mixed": "files", "visits": "files", "years": "files",
                       "numbers": "folders", "dated": "folders"}.items():  # fmt: skip
        ingest(tmp_path / kind, tmp_path / f"{kind}.zarr", CONFIG)
        assert json.loads((tmp_path / f"{kind}.zarr" / "manifest.json").read_text())["people"] == told
        assert Store.open(tmp_path / f"{kind}.zarr").people == told
    summary = ingest(tmp_path / "files", tmp_path / "table.zarr", CONFIG, patients=tmp_path / "t.tsv")
    assert Store.open(tmp_path / "table.zarr").people == "table" and {record.patient for record in summary.records} == {"Ann"}
    assert not any("sub-<label>" in warning for warning in summary.warnings)
    manifest = json.loads((tmp_path / "table.zarr" / "manifest.json").read_text())
    assert len(manifest["inputs"]["patients"]) == 64


def test_what_is_not_taken_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        for k, end in enumerate(("t1n", "t2w", "seg")):
            scan(tmp_path / "in" / f"P-0000{seed}-000" / f"P-0000{seed}-000-{end}.nii", 3 * seed + k)
    summary = ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert [record.id[-3:] for record in summary.records] == ["t1n"] * 3
    shown = capsys.readouterr().err
    assert "not taken: 3 images, such as P-00000-000/P-00000-000-t2w.nii: has another contrast (T2w) than T1w" in shown
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert [group["count"] for group in manifest["not_taken"]] == [3, 3] and manifest["config"]["suffix"] is None
    with pytest.raises(UserError, match="suffix was T1w, now t2w"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG.model_copy(update={"suffix": "t2w"}))


def test_settings_of_0_1_0_are_still_the_same_settings(tmp_path: Path) -> None:
    ingest(people(tmp_path / "in", "1", "2"), tmp_path / "store", CONFIG)
    path = tmp_path / "store" / "zarr.json"
    content = json.loads(path.read_text())
    settings = content["attributes"]["volgen"]["settings"]
    for key in ("glob", "space", "every", "layout"):
        del settings[key]
    assert settings["suffix"] == "T1w"
    path.write_text(json.dumps(content))
    assert ingest(tmp_path / "in", tmp_path / "store", CONFIG).resumed == 2
    with pytest.raises(UserError, match="space was None, now native"):
        ingest(tmp_path / "in", tmp_path / "store", CONFIG.model_copy(update={"space": "native"}))


def test_an_odd_header_is_noted_once_and_for_all(tmp_path: Path) -> None:
    for seed, name in enumerate(("sub-1", "sub-2")):
        image = nib.load(scan(tmp_path / "in" / f"{name}_T1w.nii", seed))
        moved = image.affine.copy()
        moved[0, 3] += 40
        odd = nib.Nifti1Image(image.get_fdata().astype(np.int16), moved)
        odd.set_qform(image.affine, 1)
        odd.set_sform(moved, 1)
        nib.save(odd, tmp_path / "in" / f"{name}_T1w.nii")
    expected = "2 of 2 scans, such as sub-1_T1w.nii: its sform and qform have the same code and lie up to 40 apart; the sform is taken"
    for _ in range(2):  # also when the groups are there already
        assert expected in ingest(tmp_path / "in", tmp_path / "store", CONFIG).warnings
        noted = json.loads((tmp_path / "store" / "manifest.json").read_text())["notes"]
        assert [item["source"] for item in noted] == ["sub-1_T1w.nii", "sub-2_T1w.nii"]


def test_masks_and_padding_are_seen_in_the_voxels(tmp_path: Path) -> None:
    image = nib.load(scan(tmp_path / "in" / "sub-1_T1w.nii", 1))
    voxels = image.get_fdata()
    nib.save(nib.Nifti1Image((voxels > 200).astype(np.uint8), image.affine), tmp_path / "in" / "sub-2_T1w.nii")
    voxels[:, :2] = -32768
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), image.affine), tmp_path / "in" / "sub-3_T1w.nii")
    summary = ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert [record.id for record in summary.records] == ["sub-1", "sub-3"]
    assert "mask" in summary.left_out[0].reason and any("-32768" in warning and "padding" in warning for warning in summary.warnings)
    assert all(record.intensity.low >= -1 for record in summary.records)
