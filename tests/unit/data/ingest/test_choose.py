"""Which images of a source are taken, and whose they are: contrasts, spaces, masks, visits, filters, tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from volgen.core.errors import UserError
from volgen.data.ingest.choose import ScanChoice
from volgen.data.ingest.discover import Selection, select
from volgen.data.ingest.names import common_base, parse, without_visit
from volgen.data.ingest.patients import PatientTable

NOTHING = ScanChoice()


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def taken(selection: Selection) -> dict[str, str]:
    return {found.relative: found.patient for found in selection.scans}


def brats(root: Path, *folders: str, flat: bool = False) -> Path:
    for folder in folders:
        touch(root, *(f"{'' if flat else folder + '/'}{folder}-{end}.nii.gz" for end in ("t1n", "t1c", "t2w", "t2f", "seg")))
    return root


@pytest.mark.parametrize("flat", [False, True])
def test_brats_folders_are_people_with_visits_and_one_contrast(tmp_path: Path, flat: bool) -> None:
    selection = select(brats(tmp_path, "BraTS-GLI-00000-000", "BraTS-GLI-00005-000", "BraTS-GLI-00005-001", flat=flat), NOTHING)
    assert list(taken(selection).values()) == ["BraTS-GLI-00000", "BraTS-GLI-00005", "BraTS-GLI-00005"]
    assert all(name.endswith("t1n.nii.gz") for name in taken(selection))
    assert {found.told_by for found in selection.scans} == {"files" if flat else "folders"}
    reasons = sorted(set(selection.others.values()))
    assert len(selection.others) == 12 and len(reasons) == 4 and any("mask" in reason for reason in reasons)
    assert any("T1w such as 't1n' (3)" in warning and "--suffix" in warning for warning in selection.warnings)


@pytest.mark.parametrize("bids", [False, True])
def test_several_contrasts_are_one_image_of_each_visit_for_each(tmp_path: Path, bids: bool) -> None:
    inside = "sub-{0}/anat/" if bids else "scans/"
    names = [f"{inside}sub-{{0}}_{end}.nii.gz" for end in ("T1w", "T2w", "FLAIR", "desc-brain_T1w", "PDw", "dseg")]
    touch(tmp_path, *(name.format(person) for person in ("a", "b") for name in names))
    selection = select(tmp_path, ScanChoice(suffix="T1w,FLAIR,T2w"))
    assert sorted(found.id for found in selection.scans) == [f"sub-{p}_{end}" for p in "ab" for end in ("FLAIR", "T1w", "T2w")]
    assert sorted(taken(selection).values()) == ["sub-a"] * 3 + ["sub-b"] * 3
    assert len(selection.others) == 6 and "than T1w or FLAIR or T2w" in selection.others[names[4].format("a")]
    assert [found.id for found in select(tmp_path, ScanChoice(suffix="T2w")).scans] == ["sub-a", "sub-b"]
    with pytest.raises(UserError, match="T2star images"):
        select(tmp_path, ScanChoice(suffix="T1w,T2star"))


def test_filters_work_on_any_tree(tmp_path: Path) -> None:
    root = brats(tmp_path, "BraTS-GLI-00000-000", "BraTS-GLI-00001-000")
    for choice in (ScanChoice(suffix="t2f"), ScanChoice(suffix="T2F"), ScanChoice(glob="*-t2f.nii.gz"), ScanChoice(glob="BraTS*/*-t2f.*")):
        assert [name[-10:] for name in taken(select(root, choice))] == ["t2f.nii.gz"] * 2
    assert len(taken(select(root, ScanChoice(every=True)))) == 8, "masks are never scans"
    assert [name[-10:] for name in taken(select(root, ScanChoice(suffix="seg")))] == ["seg.nii.gz"] * 2, "unless they are asked for"
    for choice, word in (
        (ScanChoice(suffix="T1w"), "holds no T1w images (found seg (2), t1c (2), t1n (2), t2f (2), t2w (2))"),
        (ScanChoice(glob="*.img"), "no image that matches --glob '*.img'"),
        (ScanChoice(space="MNI"), "no image in the space 'MNI' (found native (2))"),
    ):
        with pytest.raises(UserError) as caught:
            select(root, choice)
        assert word in caught.value.found


@pytest.mark.parametrize(
    ("names", "people"),
    [
        (("S000-T1.nii.gz", "S001-T1.nii.gz"), ["S000", "S001"]),
        (("IXI002-Guys-0828-T1.nii.gz", "IXI012-HH-1211-T1.nii.gz"), ["IXI002-Guys-0828", "IXI012-HH-1211"]),
        (("P001_20200101.nii.gz", "P001_20210101.nii.gz", "P002_20200101.nii.gz"), ["P001", "P001", "P002"]),
        (("1234567_T1_2019.nii", "1234567_T1_2023.nii"), ["1234567", "1234567"]),
        (("x/P001_ses-1_T1.nii", "x/P001_ses-2_T1.nii"), ["P001", "P001"]),
        (("anna_2020-01-02.nii", "anna_2021-01-02.nii", "bob_2020-01-02.nii"), ["anna", "anna", "bob"]),
        (("scan_20200101.nii", "scan_20200102.nii"), ["scan_20200101", "scan_20200102"]),
        (("P_0001.nii", "P_0002.nii"), ["P_0001", "P_0002"]),
        (("OAS_2001.nii", "OAS_2002.nii"), ["OAS_2001", "OAS_2002"]),
        (("T1.nii", "brain.nii"), ["T1"]),
        (("UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_T1.nii.gz", "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_T2_bias.nii.gz"), ["UCSF-PDGM-0004"]),
        (("NYU/NYU_51.nii", "NYU/NYU_52.nii"), ["NYU_51", "NYU_52"]),
        (("study1/study1-bert.nii", "study1/study1-ernie.nii"), ["study1-bert", "study1-ernie"]),
        (("P001/IM_0001.nii", "P001/IM_0002.nii", "P002/IM_0003.nii"), ["P001", "P001", "P002"]),
        (("P001_20200101/T1.nii", "P001_20210101/T1.nii", "P002_20210101/T1.nii"), ["P001", "P001", "P002"]),
        (("x/sub-1/ses-1/T1.nii", "x/sub-1/ses-2/T1.nii"), ["sub-1", "sub-1"]),
        (("x/T1.nii", "x/FLAIR.nii", "y.nii"), ["x", "y"]),
        (("OAS1_0001_MR1_mpr_n4_anon_111_t88_gfc.nii", "OAS1_0001_MR2_mpr_n4_anon_111_t88_gfc.nii"), ["OAS1_0001", "OAS1_0001"]),
        (("study1_wave2_anna.nii", "study1_wave2_bert.nii"), ["study1_wave2_anna", "study1_wave2_bert"]),
    ],
)
def test_people_of_plain_trees(tmp_path: Path, names: tuple[str, ...], people: list[str]) -> None:
    assert list(taken(select(touch(tmp_path, *names), NOTHING)).values()) == people


@pytest.mark.parametrize(
    "name",
    [
        *("S1-T1_mask", "S1_seg", "a_dseg", "S1_T1_pve_1", "aparc+aseg", "aparc.a2009s+aseg", "lh.ribbon", "wmparc", "x_labels"),
        *("sub-1_label-GM_probseg", "sub-1_desc-brain_mask", "sub-1_space-MNI_desc-aseg_dseg"),
    ],
)
def test_masks_and_label_maps_are_known_by_name(name: str) -> None:
    assert parse(f"x/{name}.nii.gz").is_label


@pytest.mark.parametrize("name", ["T1", "brainmask", "S1_T1_masked", "sub-1_desc-mask_T1w", "maskin_T1", "lesion-0004-t1", "sub-seg_T1w"])
def test_scans_are_not_taken_for_masks(name: str) -> None:
    assert not parse(f"x/{name}.nii.gz").is_label


def test_one_image_of_a_visit_in_bids_derivatives(tmp_path: Path) -> None:
    names = [f"sub-0{p}/anat/sub-0{p}_{rest}_T1w.nii.gz" for p in range(3) for rest in ("desc-preproc", "desc-brain", "ce-gd_desc-preproc")]
    selection = select(touch(tmp_path, *names, "sub-09/anat/sub-09_desc-brain_T1w.nii.gz"), NOTHING)
    assert [name.partition("desc-")[2][:5] for name in taken(selection)] == ["brain"] * 4, "what most have, the same for all"
    assert all("another image of a visit" in reason for reason in selection.others.values()) and len(selection.warnings) == 1
    assert len(taken(select(tmp_path, ScanChoice(every=True)))) == 10
    assert len(taken(select(tmp_path, ScanChoice(glob="*_desc-preproc_T1w*")))) == 3, "without contrast agent before with it"


def test_runs_acquisitions_and_sessions_are_scans_of_their_own(tmp_path: Path) -> None:
    names = [f"sub-1/ses-{s}/anat/sub-1_ses-{s}_acq-{a}_run-{r}_T1w.nii" for s in "12" for a in "xy" for r in "12"]
    selection = select(touch(tmp_path, *names), NOTHING)
    assert len(selection.scans) == 8 and not selection.others and not selection.warnings


def test_one_space_is_taken_and_said(tmp_path: Path) -> None:
    names = [f"sub-0{p}/anat/sub-0{p}_{space}desc-preproc_T1w.nii" for p in range(3) for space in ("", "space-MNI_")]
    touch(tmp_path, *names, "sub-09/anat/sub-09_space-MNI_res-2_desc-preproc_T1w.nii")
    assert {name.count("space-MNI") for name in taken(select(tmp_path, NOTHING))} == {1}, "four visits have it, three the native one"
    selection = select(tmp_path, ScanChoice(space="native"))
    assert len(selection.scans) == 3 and not any("space-" in name for name in taken(selection)) and not selection.warnings
    assert any("several spaces (MNI (4), native (3)): those in MNI" in warning for warning in select(tmp_path, NOTHING).warnings)


def test_a_contrast_that_few_have_is_not_what_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p{p}/flair.nii" for p in range(9)), "p1/T1.nii", "p7/notes.nii")
    selection = select(tmp_path, NOTHING)
    assert [name.partition("/")[2] for name in taken(selection)] == ["flair.nii"] * 9
    assert "another contrast (T1w) than FLAIR" in selection.others["p1/T1.nii"] and "another image" in selection.others["p7/notes.nii"]


def test_names_without_a_visit_and_what_files_begin_with() -> None:
    assert [without_visit(name) for name in ("a", "ses-1", "x_v2", "P1_visit2_ses1", "m12")] == ["a", "ses-1", "x_v2", "P1", "m12"]
    assert common_base(["A1-t1", "A1-t2"]) == "A1" and common_base(["A-t1", "A-t2"]) == "" and common_base(["A1-t1"]) == ""


def table(path: Path, *lines: str) -> PatientTable:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return PatientTable.read(path)


def test_a_table_says_whose_scans_are(tmp_path: Path) -> None:
    touch(tmp_path / "in", "x/a_T1.nii", "b_T1.nii.gz", "c.nii", "c_seg.nii", "sub-1_T1w.nii")
    rows = ("age\tfile\tpatient", "1\tx/a_T1.nii\tAnn", "2\tb_T1.nii.gz\tAnn", "\tc\tBob", "", "3\tsub-1\tEve")
    selection = select(tmp_path / "in", NOTHING, table(tmp_path / "t.tsv", *rows))
    assert taken(selection) == {"b_T1.nii.gz": "Ann", "x/a_T1.nii": "Ann", "c.nii": "Bob", "sub-1_T1w.nii": "Eve"}
    assert {found.told_by for found in selection.scans} == {"table"}
    comma = table(tmp_path / "t.csv", "Scan_ID,Subject", '"x/a_T1.nii",1', "b_T1,1", "c,2", "sub-1,2")
    assert set(taken(select(tmp_path / "in", NOTHING, comma)).values()) == {"1", "2"}


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (("file\tpatient", "a_T1\tAnn"), "does not name b_T1.nii"),
        (("file\tpatient", "a_T1\tAnn", "b_T1\tAnn", "z_T1\tBob"), "does not hold: z_T1"),
        (("file\tpatient", "a_T1\tAnn", "a_T1.nii\tBob", "b_T1\tBob"), "gives a_T1.nii to Ann and to Bob"),
        (("file\tpatient", "a_T1\tAnn", "a_T1\tBob"), "gives a_T1 to Bob, and a line before it to Ann"),
        (("file\tpatient", "a_T1\t", "b_T1\tBob"), "lacks the scan or the patient"),
        (("file\tpatient", "a_T1"), "lacks the scan or the patient"),
        (("file\tage", "a_T1\t3"), "has the columns file, age"),
        (("file\tscan\tpatient", "a_T1\tb\tc"), "has the columns file, scan, patient"),
        (("",), "has the columns"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_name(tmp_path: Path, lines: tuple[str, ...], word: str) -> None:
    touch(tmp_path / "in", "a_T1.nii", "b_T1.nii")
    with pytest.raises(UserError) as caught:
        select(tmp_path / "in", NOTHING, table(tmp_path / "t.tsv", *lines))
    assert word in caught.value.found and "t.tsv" in str(caught.value)


def test_a_table_with_another_separator_is_told_the_one_that_its_name_asks_for(tmp_path: Path) -> None:
    for name in ("t.csv", "t.tsv"):
        with pytest.raises(
            UserError, match=r"has the columns file;patient; expected .*tab-separated.*comma-separated if its name ends in \.csv"
        ):
            table(tmp_path / name, "file;patient", "a_T1;Ann")


def test_what_is_no_table_does_not_fill_the_screen(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        table(tmp_path / "t.tsv", "x" * 100_000)
    assert len(str(caught.value)) < 1000


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "t.tsv", tmp_path / "gone.tsv", tmp_path):
        with pytest.raises(UserError):
            PatientTable.read(path)
