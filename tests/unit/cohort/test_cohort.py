"""The sample cohort is real, whole, small, licensed and says how it was made."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import volgen.cohort
from volgen.cohort import copy_to
from volgen.core.errors import UserError
from volgen.core.files import UNFINISHED
from volgen.core.folder import LOCK
from volgen.core.lock import Lock

SHIPPED = Path(volgen.cohort.__file__).parent / "bids"
SCANS = sorted(SHIPPED.glob("sub-*/anat/*_T1w.nii.gz"))


def test_there_are_61_people_in_at_most_8_megabytes() -> None:
    assert len(SCANS) == 61
    folder = Path(volgen.cohort.__file__).parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc") <= 8_000_000


def test_every_scan_is_a_brain_with_exact_geometry_and_a_clean_header() -> None:
    for path in SCANS:
        scan = nib.load(path)
        voxels = np.asanyarray(scan.dataobj)
        assert scan.shape == (80, 93, 80)
        assert voxels.dtype == np.uint8
        assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
        np.testing.assert_allclose(scan.header.get_zooms(), 2.4, rtol=1e-6)
        assert (scan.header["sform_code"], scan.header["qform_code"]) == (1, 1)
        np.testing.assert_allclose(scan.get_qform(), scan.get_sform(), atol=1e-5)
        assert scan.header.get_xyzt_units()[0] == "mm"
        texts = {name: bytes(scan.header[name].tobytes()).strip(b"\0") for name in ("descrip", "aux_file", "db_name", "intent_name")}
        assert not any(texts.values()), f"{path.name}: {texts}"
        assert not scan.header.extensions
        litres = float((voxels > 0).sum()) * 2.4**3 / 1e6
        assert 0.9 < litres < 2.2, f"{path.name}: a head volume of {litres:.2f} l"
        faces = [voxels.take(index, axis) for axis in range(3) for index in (0, -1)]
        assert not any(face.any() for face in faces), f"{path.name} touches the edge of its grid"


def test_the_people_of_the_table_are_those_of_the_folder() -> None:
    with (SHIPPED / "participants.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["participant_id"] for row in rows] == sorted(path.name for path in SHIPPED.glob("sub-*"))
    # Age, diagnosis and test scores of the source data set stay out.
    assert set(rows[0]) == {"participant_id", "sex"}


def test_licence_and_citation_are_given() -> None:
    description = json.loads((SHIPPED / "dataset_description.json").read_text())
    assert description["License"] == "CC0"
    assert description["DatasetType"] == "derivative"
    for place in (description["HowToAcknowledge"], (SHIPPED / "README.md").read_text()):
        assert "10.18112/openneuro.ds002748.v1.0.5" in place
        assert "Bezmaternykh" in place
    assert "CC0 1.0 Universal" in (SHIPPED / "LICENSE").read_text()


def test_copying_gives_the_whole_tree_and_can_be_repeated(tmp_path: Path) -> None:
    target = tmp_path / "new" / "scans"
    assert copy_to(target) == target
    first = {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert first == {path.relative_to(SHIPPED): path.read_bytes() for path in SHIPPED.rglob("*") if path.is_file()}
    stamp = (target / "README.md").stat().st_mtime_ns
    copy_to(target)
    assert (target / "README.md").stat().st_mtime_ns == stamp, "the second call wrote again"
    assert [path.name for path in target.parent.iterdir()] == ["scans"]


def test_the_bids_validator_accepts_the_cohort(cohort: Path, bids_errors: Callable[[Path], list[str]]) -> None:
    assert bids_errors(cohort) == []


def test_a_cohort_that_0_1_0_copied_gets_its_sidecar(tmp_path: Path) -> None:
    target = copy_to(tmp_path / "scans")
    (target / "T1w.json").unlink()
    stamp = (target / "README.md").stat().st_mtime_ns
    copy_to(target)
    assert json.loads((target / "T1w.json").read_text())["SkullStripped"] is True
    assert (target / "README.md").stat().st_mtime_ns == stamp


def test_an_empty_folder_is_filled_and_a_used_one_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (copy_to(empty) / "participants.tsv").exists()
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is there already"):
        copy_to(used)
    assert [path.name for path in used.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        copy_to(used / "thesis.tex")


def test_a_copy_that_was_killed_is_made_whole_and_one_that_is_being_made_is_left_alone(tmp_path: Path) -> None:
    target = copy_to(tmp_path / "scans")
    whole = {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    (target / "README.md").unlink()
    shutil.rmtree(target / "sub-DEP01")
    (target / "sub-DEP04" / "anat" / "sub-DEP04_T1w.nii.gz").unlink()
    (target / f"{UNFINISHED}cohort").mkdir()
    (target / LOCK).touch()
    with Lock.wait(target / LOCK), pytest.raises(UserError, match="is being written by"):
        copy_to(target)
    copy_to(target)
    assert {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()} == whole
    assert not (target / f"{UNFINISHED}cohort").exists()


def test_nothing_is_copied_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "sub-DEP01").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is a link"):
        copy_to(tmp_path / "scans")
    assert list((tmp_path / "victim").iterdir()) == []


def test_the_code_of_the_readme_makes_the_files(test_data: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (SHIPPED / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    for path in (SCANS[0], SCANS[40]):
        made = tmp_path / path.name
        names["shrink"](test_data / "brains-2mm" / path.relative_to(SHIPPED), made)  # type: ignore[operator]
        ours, shipped = nib.load(made), nib.load(path)
        np.testing.assert_array_equal(ours.affine, shipped.affine)
        # One level of rounding: another build of SciPy may add in another order.
        difference = np.abs(np.asarray(ours.dataobj, dtype=int) - np.asarray(shipped.dataobj, dtype=int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3
