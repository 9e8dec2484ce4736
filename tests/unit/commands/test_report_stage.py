"""``volgen report`` from files to files."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen import cli
from volgen.commands.report.report import report
from volgen.core.errors import UserError
from volgen.data.store import Store
from volgen.images import nifti

FOLDERS = {"beside", "figures", "outlines", "worst", "previews", "masks"}
FILES = {"report.html", "report.json", "volumes.csv", "slices.csv", "bands.json", "manifest.json", *FOLDERS}


@pytest.fixture
def samples(tmp_path: Path, blob_store: Path) -> Path:
    """Two of the reference's own heads, one with a bad axial slice, and one constant volume."""
    folder = tmp_path / "samples"
    store = Store.open(blob_store)
    for index, record in enumerate(store.records[:3]):
        volume = store.read(record)
        if index == 2:
            volume.voxels[:, :, 8] *= 0.2
        nifti.write(folder / f"sub-{index + 1:04d}_T1w.nii.gz", volume)
    nib.save(nib.Nifti1Image(np.full((16, 16, 16), 4.0, np.float32), np.diag([8.0, 8.0, 8.0, 1.0])), folder / "sub-0004_T1w.nii.gz")
    return folder


def read(out: Path) -> dict:
    return json.loads((out / "report.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_a_report_has_its_files_and_its_keys(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    outcome = report(samples, blob_store, out)
    assert {path.name for path in out.iterdir()} == FILES
    content = read(out)
    about = content["reference"]
    assert about["subjects"] + about["left_out"] == 16
    assert about["subjects"] >= 14
    assert len(about["warnings"]) == (about["left_out"] > 0)
    assert [volume["name"] for volume in content["volumes"]] == [f"sub-{i:04d}_T1w" for i in (1, 2, 3, 4)]
    for volume in content["volumes"]:
        assert volume["verdict"] in ("pass", "fail")
        assert 0 <= volume["score"] <= 1
        assert all(set(axes) == {"S", "A", "R"} for axes in volume["metrics"].values())
        for finding in volume["findings"]:
            assert {"check", "axis", "slices", "value", "band", "text"} <= set(finding)
            assert finding["axis"] in "RAS"
            assert finding["slices"] is None or len(finding["slices"]) == 2
            assert finding["band"][0] < finding["band"][1]
    verdicts = [volume["verdict"] for volume in content["volumes"]]
    assert verdicts == ["pass", "pass", "fail", "fail"]
    assert content["volumes"][2]["findings"][0]["axis"] == "S"
    assert any(f["slices"] == [8, 8] for f in content["volumes"][2]["findings"])
    assert (outcome.passed, outcome.failed, outcome.unread, outcome.all_passed) == (2, 2, 0, False)
    with (out / "slices.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 * 3 * 16
    assert [row["slice"] for row in rows if row["name"] == "sub-0003_T1w" and row["axis"] == "S" and row["at_fault"] == "1"].count("8") == 1
    assert len(content["cohort"]["targets"]) == 7


def test_the_same_inputs_give_the_same_report_and_another_run_is_no_error(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    report(samples, blob_store, tmp_path / "a")
    report(samples, blob_store, tmp_path / "b")
    report(samples, blob_store, tmp_path / "b")
    for name in FILES - {"manifest.json"} - FOLDERS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_no_path_of_the_machine_gets_into_the_report(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    report(samples, blob_store, tmp_path / "out")
    for name in FILES - FOLDERS:
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text(), name


def test_bands_of_an_earlier_report_give_the_same_verdicts(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    report(samples, blob_store, tmp_path / "first")
    report(samples, tmp_path / "first" / "bands.json", tmp_path / "second")
    first, second = read(tmp_path / "first"), read(tmp_path / "second")
    assert first["volumes"] == second["volumes"]
    assert second["reference"]["kind"] == "bands"
    assert "cohort" not in second
    assert (tmp_path / "first" / "bands.json").read_bytes() == (tmp_path / "second" / "bands.json").read_bytes()


def test_bands_that_were_changed_are_refused_and_those_of_0_1_0_are_not(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    report(samples, blob_store, tmp_path / "first")
    bands = tmp_path / "first" / "bands.json"
    whole = json.loads(bands.read_text())
    changed = {**whole, "stretch": whole["stretch"] * 1.01}
    bare = {key: value for key, value in whole.items() if key != "seal"}
    for name, content in (("changed", changed), ("renamed", {**bare, "seam": whole["seal"]})):
        bands.write_text(json.dumps(content))
        with pytest.raises(UserError, match="was changed after it was written"):
            report(samples, bands, tmp_path / name)
    bands.write_text(json.dumps(bare))
    report(samples, bands, tmp_path / "old")


def test_a_store_and_a_single_file_can_be_judged(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    report(blob_store, blob_store, tmp_path / "store", split="train")
    content = read(tmp_path / "store")
    assert [volume["name"] for volume in content["volumes"]] == [record.id for record in Store.open(blob_store).records]
    assert content["reference"]["subjects"] + content["reference"]["left_out"] == len(Store.open(blob_store).split("train"))
    report(samples / "sub-0001_T1w.nii.gz", blob_store, tmp_path / "file")
    assert [volume["name"] for volume in read(tmp_path / "file")["volumes"]] == ["sub-0001_T1w"]


def test_an_unreadable_file_is_named_and_the_rest_is_reported(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    (samples / "sub-0009_T1w.nii.gz").write_bytes(b"no image")
    outcome = report(samples, blob_store, tmp_path / "out", strict=True)
    content = read(tmp_path / "out")
    assert content["unread"] == [{"name": "sub-0009_T1w.nii.gz", "reason": content["unread"][0]["reason"]}]
    assert len(content["volumes"]) == 4
    assert outcome.unread == 1
    assert "sub-0009_T1w.nii.gz" in (tmp_path / "out" / "report.html").read_text()


def test_nothing_but_unreadable_files_is_an_error(blob_store: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        report(tmp_path / "in", blob_store, tmp_path / "out")
    (tmp_path / "in" / "a.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of its volumes can be read.*empty file"):
        report(tmp_path / "in", blob_store, tmp_path / "out")


def test_another_voxel_size_is_an_error_and_another_shape_is_not(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    volume = nifti.read(samples / "sub-0001_T1w.nii.gz")
    wide = tmp_path / "wide" / "sub-0001_T1w.nii.gz"
    nib.save(nib.Nifti1Image(np.pad(volume.voxels, 2), np.diag([8.0, 8.0, 8.0, 1.0])), wide) if wide.parent.mkdir() is None else None
    report(wide, blob_store, tmp_path / "out")
    content = read(tmp_path / "out")
    assert content["volumes"][0]["shape"] == [20, 20, 20]
    assert content["volumes"][0]["verdict"] == "pass"
    assert "shape" in content["cohort"]["skipped"]
    nib.save(nib.Nifti1Image(volume.voxels, np.diag([2.0, 2.0, 2.0, 1.0])), samples / "sub-0001_T1w.nii.gz")
    with pytest.raises(UserError, match=r"sub-0001_T1w.nii.gz: its voxels are 2 x 2 x 2 mm; expected 8 x 8 x 8 mm .*Resample"):
        report(samples, blob_store, tmp_path / "other")


def test_orientation_of_a_file_does_not_change_its_verdict(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    report(samples, blob_store, tmp_path / "ras")
    for path in samples.glob("*.nii.gz"):
        nib.save(nib.load(path).as_reoriented(nib.orientations.axcodes2ornt("LIA")), tmp_path / path.name)
        shutil.move(tmp_path / path.name, path)
    report(samples, blob_store, tmp_path / "lia")
    assert read(tmp_path / "ras")["volumes"] == read(tmp_path / "lia")["volumes"]


def test_a_foreign_folder_and_another_report_are_not_overwritten(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        report(samples, blob_store, foreign)
    report(samples, blob_store, tmp_path / "out")
    (samples / "sub-0004_T1w.nii.gz").unlink()
    with pytest.raises(UserError, match="report on other volumes"):
        report(samples, blob_store, tmp_path / "out")


def test_a_reference_that_cannot_be_used_is_explained(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such store or file"):
        report(samples, tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "bands.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="has another form"):
        report(samples, tmp_path / "bands.json", tmp_path / "out")
    with pytest.raises(UserError, match="all, train, validation, test"):
        report(samples, blob_store, tmp_path / "out", split="holdout")


def test_a_small_reference_is_warned_of(samples: Path, blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = len(Store.open(blob_store).split("validation"))
    assert 3 <= people < 8, "the fixture's split has moved: choose another"
    report(samples, blob_store, tmp_path / "out", split="validation")
    assert "The reference is small" in read(tmp_path / "out")["reference"]["warnings"][0]
    assert "reference is small" in (tmp_path / "out" / "report.html").read_text()
    assert "reference is small" in capsys.readouterr().err.replace("\n", " ")


def test_strict_decides_the_exit_code(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    words = ["report", str(samples), "--reference", str(blob_store), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert cli.main([*words, "--strict"]) == 1
    for name in ("sub-0003_T1w.nii.gz", "sub-0004_T1w.nii.gz"):
        (samples / name).unlink()
    assert cli.main([*words[:-1], str(tmp_path / "good"), "--strict"]) == 0
    assert cli.main([*words[:-1], str(tmp_path / "bad"), "--split", "nobody"]) == 2


def test_real_scans_are_shown_beside_the_volumes_without_a_name_and_can_be_left_out(
    samples: Path, blob_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for number, path in enumerate(sorted(samples.iterdir())):
        path.rename(samples / f"made-{number}.nii.gz")
    report(samples, blob_store, out)
    beside = read(out)["beside"]
    assert len(beside["real"]) == 3
    assert beside["places"] == [0.35, 0.5, 0.65]
    assert set(beside["generated"]) == {f"made-{number}" for number in range(4)}
    assert "3 real people" in beside["note"]
    pictures = {path.name for path in (out / "beside").iterdir()}
    assert {name for name in pictures if name.startswith("real")} == {
        f"real {n}.{plane}.{place}.png" for n in (1, 2, 3) for plane in ("axial", "coronal", "sagittal") for place in range(3)
    }
    text = "".join((out / name).read_text(errors="ignore") for name in ("report.html", "report.json", "manifest.json")) + " ".join(pictures)
    for record in Store.open(blob_store).records:
        assert record.id not in text, record.id
    report(samples, blob_store, out, real_pictures=False)  # over the one before: nobody stays
    assert read(out)["beside"]["real"] == []
    assert [path for path in (out / "beside").iterdir() if path.name.startswith("real")] == []
    assert "--no-real-pictures" in (out / "report.html").read_text()


def test_bands_show_nobody_and_say_so_and_a_store_says_that_bands_are_quicker(
    samples: Path, blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(samples, blob_store, tmp_path / "first")
    said = " ".join(capsys.readouterr().err.split())
    assert f"--reference {tmp_path / 'first' / 'bands.json'}" in said
    assert "3 real people" in said
    assert "Frechet distance is of too few volumes (4 generated" in said
    assert "given as <code>--reference</code>" in (tmp_path / "first" / "report.html").read_text()
    report(samples, tmp_path / "first" / "bands.json", tmp_path / "second")
    said = capsys.readouterr().err
    assert "need not measure" not in said and said.splitlines()[-1].startswith("Next: volgen report --compare ")
    assert read(tmp_path / "second")["beside"]["real"] == []
    assert "holds no scans" in (tmp_path / "second" / "report.html").read_text()


def test_samples_in_folders_of_their_own_are_read_as_flat_ones_are(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    nested = tmp_path / "nested"
    for path in samples.glob("*.nii.gz"):
        person = path.name.partition("_")[0]
        (nested / person / "anat").mkdir(parents=True)
        shutil.copy(path, nested / person / "anat" / f"{person}_desc-synthetic_T1w.nii.gz")
    report(samples, blob_store, tmp_path / "flat")
    report(nested, tmp_path / "flat" / "bands.json", tmp_path / "out")
    flat, found = read(tmp_path / "flat")["volumes"], read(tmp_path / "out")["volumes"]
    assert [volume["name"] for volume in found] == [f"sub-{i:04d}_desc-synthetic_T1w" for i in (1, 2, 3, 4)]
    assert [volume["metrics"] for volume in found] == [volume["metrics"] for volume in flat]
    assert found[0]["file"] == "sub-0001/anat/sub-0001_desc-synthetic_T1w.nii.gz"


def test_bands_without_the_newest_checks_judge_by_the_others_and_say_so(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    report(samples, blob_store, tmp_path / "first")
    bands = json.loads((tmp_path / "first" / "bands.json").read_text())
    bands["checks"] = [check for check in bands["checks"] if check["kind"] not in ("mirror", "drift")]
    del bands["seal"]  # and none of what 0.1.0 did not write
    (tmp_path / "old.json").write_text(json.dumps(bands))
    report(samples, tmp_path / "old.json", tmp_path / "second")
    assert "change between slices over that to the mirror image" in read(tmp_path / "second")["reference"]["warnings"][0]
    assert "mirror_max" not in read(tmp_path / "second")["volumes"][0]["metrics"]
