"""Scans and patients from file names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from volgen.core.errors import UserError
from volgen.data.ingest.discover import discover


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


def test_folders_behind_links_count_and_circles_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "all/siteA/p1.nii.gz", "far/p2.nii.gz")
    (tmp_path / "all" / "siteB").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "Latest").symlink_to("siteA")
    (tmp_path / "all" / "up").symlink_to("..")
    touch(tmp_path, "other.nii.gz")
    found = [(scan.relative, scan.id) for scan in discover(tmp_path / "all")]
    assert sorted(found) == [("siteA/p1.nii.gz", "p1"), ("siteB/p2.nii.gz", "p2")], "by their own names, and nothing from above"
    said = capsys.readouterr().err
    assert said.count("is a link to") == 1 and "siteB" in said


@pytest.mark.parametrize(("first", "second"), [("far/deep", "far"), ("far", "far/deep")])
def test_a_link_into_the_target_of_another_takes_nothing_twice(tmp_path: Path, first: str, second: str) -> None:
    touch(tmp_path, "all/a.nii", "far/deep/p1.nii", "far/p2.nii")
    (tmp_path / "far" / "deep" / "up").symlink_to(tmp_path / "far")
    (tmp_path / "all" / "A").symlink_to(tmp_path / first)
    (tmp_path / "all" / "B").symlink_to(tmp_path / second)
    assert sorted(found.patient for found in discover(tmp_path / "all")) == ["a", "p1", "p2"]


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


def people(root: Path, *names: str) -> dict[str, str]:
    return {found.relative: found.patient for found in discover(touch(root, *names))}


def test_subjects_below_sites_are_people_and_sites_are_not(tmp_path: Path) -> None:
    names = ("NYU/NYU_51/T1.nii", "NYU/NYU_52/T1.nii", "NYU/NYU_52/FLAIR.nii", "UCLA/UCLA_07/T1.nii", "UCLA/UCLA_08/ses-2/T1.nii")
    assert people(tmp_path, *names) == {
        "NYU/NYU_51/T1.nii": "NYU_NYU_51",
        "NYU/NYU_52/FLAIR.nii": "NYU_NYU_52",
        "NYU/NYU_52/T1.nii": "NYU_NYU_52",
        "UCLA/UCLA_07/T1.nii": "UCLA_UCLA_07",
        "UCLA/UCLA_08/ses-2/T1.nii": "UCLA_UCLA_08",
    }


def test_visits_of_people_below_sites_stay_together(tmp_path: Path) -> None:
    found = people(tmp_path, "A/ann/1/T1.nii", "A/ann/2/T1.nii", "A/bob/1/T1.nii", "B/cyd/1/T1.nii", "B/cyd/mri/x/T1.nii")
    assert set(found.values()) == {"A_ann", "A_bob", "B_cyd"}
    counted = people(tmp_path / "counted", "A/subj1/T1.nii", "A/subj2/1/T1.nii", "A/subj2/2/T1.nii", "B/subj1/T1.nii")
    assert set(counted.values()) == {"A_subj1", "A_subj2", "B_subj1"}
    one_site = people(tmp_path / "all", "A/ann/T1.nii", "A/bob/T1.nii")
    assert set(one_site.values()) == {"A_ann", "A_bob"}


@pytest.mark.parametrize(
    "visits",
    [
        ("a/1/T1.nii", "a/2/T1.nii", "b/3/T1.nii"),
        ("a/baseline/T1.nii", "a/month12/T1.nii", "b/fu-2/T1.nii"),
        ("a/20190131/T1.nii", "a/2020-02-01/T1.nii", "b/scan_20190105_x/T1.nii"),
        ("a/left/T1.nii", "a/right/T1.nii", "b/left/T1.nii"),
        ("a1/a1_MR1/T1.nii", "a1/a1_MR2/T1.nii", "b1/b1_MR1/T1.nii"),
        ("a/x/T1.nii", "a/y/T1.nii", "b/T1.nii"),
    ],
)
def test_what_may_be_visits_is_one_person(tmp_path: Path, visits: tuple[str, ...]) -> None:
    assert people(tmp_path, *visits) == {name: name.split("/")[0] for name in visits}


def test_one_label_is_one_person_at_every_site(tmp_path: Path) -> None:
    # Raw and derived scans of one person may lie beside each other: two people under one label are told, one person under two is not.
    found = people(tmp_path, "A/sub-01/anat/sub-01_T1w.nii", "B/sub-01/anat/sub-01_T1w.nii", "B/sub-02/anat/sub-02_T1w.nii")
    assert sorted(found.values()) == ["sub-01", "sub-01", "sub-02"]
    assert len({scan.id for scan in discover(tmp_path)}) == 3


@pytest.mark.parametrize(
    "names",
    [
        ("Müller.nii", "Möller.nii"),
        ("sub-Müller_T1w.nii", "sub-Möller_T1w.nii"),
        ("a b.nii", "a-b.nii", "a+b.nii"),
        ("x/a_b/T1.nii", "x_a/b/T1.nii"),
        ("阿.nii", "貝.nii"),
    ],
)
def test_names_that_an_id_cannot_tell_apart_are_different_people(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = people(tmp_path, *names)
    assert len(set(found.values())) == len(names)
    assert found == people(tmp_path, *reversed(names)), "it does not depend on the order in which files are found"
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", patient) for patient in found.values())


def test_a_name_that_is_usable_keeps_it_beside_one_that_is_not(tmp_path: Path) -> None:
    found = people(tmp_path, "a b.nii", "a-b.nii")
    assert found["a-b.nii"] == "a-b" and found["a b.nii"].startswith("a-b-")
    assert people(tmp_path / "alone", "a b.nii") == {"a b.nii": "a-b"}


def test_an_accent_written_apart_is_the_same_person(tmp_path: Path) -> None:
    found = people(tmp_path, "one/sub-Mu\u0308ller_T1w.nii", "two/sub-M\u00fcller_ses-2_T1w.nii")
    assert len(found) == 2 and len(set(found.values())) == 1
