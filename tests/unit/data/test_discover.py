"""Scans and patients from file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from volgen.core.errors import UserError
from volgen.data.discover import discover


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_bids_tree_gives_t1w_of_every_session_and_run(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_run-1_T1w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_run-2_T1w.nii",
        "sub-02/ses-1/func/sub-02_ses-1_bold.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_run-1_T1w.json",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    )
    found = discover(tmp_path)
    assert [(f.id, f.patient) for f in found] == [
        ("sub-01", "sub-01"),
        ("sub-02_ses-1_run-1", "sub-02"),
        ("sub-02_ses-1_run-2", "sub-02"),
    ]
    assert found[0].relative == "sub-01/anat/sub-01_T1w.nii.gz"
    assert [f.id for f in discover(tmp_path, suffix="T2w")] == ["sub-01"]
    assert [f.id for f in discover(tmp_path / "derivatives" / "x")] == ["sub-01"]


def test_bids_tree_without_the_suffix_says_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_dseg.nii.gz")
    with pytest.raises(UserError, match=r"found dseg.*--suffix"):
        discover(tmp_path)


def test_plain_folder_takes_every_image_and_names_people_from_files(tmp_path: Path) -> None:
    touch(tmp_path, "sub-07_T1w.nii.gz", "brain one.nii", "x/y.mgz", "notes.txt", ".hidden.nii", "x/sub-07_ses-2_T1w.nii")
    assert [(f.id, f.patient) for f in discover(tmp_path)] == [
        ("brain-one", "brain-one"),
        ("sub-07", "sub-07"),
        ("sub-07_ses-2", "sub-07"),
        ("y", "y"),
    ]


def test_equal_names_get_different_ids(tmp_path: Path) -> None:
    touch(tmp_path, "a/scan.nii.gz", "b/scan.nii.gz", "b/scan.nii", "b/SCAN.nii")
    ids = [f.id for f in discover(tmp_path)]
    assert len({name.lower() for name in ids}) == 4 and all("/" not in name and not name.startswith(".") for name in ids)


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "sub-3/anat/sub-3_T1w.nii.gz")
    (found,) = discover(tmp_path / "sub-3" / "anat" / "sub-3_T1w.nii.gz")
    assert (found.id, found.patient, found.relative) == ("sub-3", "sub-3", "sub-3_T1w.nii.gz")


@pytest.mark.parametrize("name", ["nowhere", "notes.txt", "empty"])
def test_a_source_without_images_is_an_error(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        discover(tmp_path / name)


def test_suffixes_in_upper_case_count(tmp_path: Path) -> None:
    touch(tmp_path / "plain", "a.NII.GZ", "b.Mgz")
    assert [f.id for f in discover(tmp_path / "plain")] == ["a", "b"]
    touch(tmp_path / "bids", "sub-1/anat/sub-1_T1w.NII")
    assert [f.id for f in discover(tmp_path / "bids")] == ["sub-1"]


def test_people_of_a_freesurfer_tree_are_its_folders(tmp_path: Path) -> None:
    names = ("bert/mri/T1.mgz", "bert/mri/orig.mgz", "bert/mri/orig/001.mgz", "ernie/mri/T1.mgz", "ernie/mri/orig/001.mgz", "zoe.nii")
    found = discover(touch(tmp_path, *names))
    assert {f.relative: f.patient for f in found} == {name: name.split("/")[0].removesuffix(".nii") for name in names}
    assert len({f.id for f in found}) == len(names)


def test_sessions_below_a_folder_stay_one_person(tmp_path: Path) -> None:
    found = discover(touch(tmp_path, "all/a/1/scan.nii", "all/a/2/scan.nii", "all/b/1/scan.nii", "all/b/1/scan.nii.gz"))
    assert [f.patient for f in found] == ["all_a", "all_a", "all_b", "all_b"]
