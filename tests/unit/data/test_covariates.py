"""A table of people becomes part of a store: what is known of whom, what is not, and nothing else; older stores know nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen.commands.ingest.ingest import ingest
from volgen.commands.participants.participants import participants
from volgen.core.cells import numeric
from volgen.core.errors import UserError
from volgen.data.covariates import KEY, Column, Covariates
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store

CONFIG = IngestConfig(shape=(8, 8, 8), voxel_size=2.0, validation=0.3)
TSV = """participant_id\tage\tsex\tgroup\tname
sub-a\t34.5\tF\tcontrol\tEve
sub-b\t89+\tm\tn/a\tBob
sub-stranger\t1\tF\tpatient\tJim
sub-c\tn/a\tF\tpatient\tAda
"""
JSON = {
    "age": {"Description": "age at scan", "Units": "years"},
    "sex": {"Levels": {"F": "female", "m": {"Description": "male"}, "o": "other"}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BIDS tree of five scans of four people, with a table, and its store."""
    folder = tmp_path_factory.mktemp("people")
    for seed, name in enumerate(("sub-a/ses-1", "sub-a/ses-2", "sub-b", "sub-c", "sub-d")):
        path = folder / "in" / name / "anat" / f"{name.replace('/', '_')}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        voxels = np.random.default_rng(seed).gamma(2.0, 100.0, (8, 8, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    (folder / "in" / "participants.tsv").write_text(TSV)
    (folder / "in" / "participants.json").write_text(json.dumps(JSON))
    ingest(folder / "in", folder / "store", CONFIG)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


def told(store: Store) -> dict[str, dict[str, str]]:
    return {record.id: dict(record.covariates) for record in store.records}


def test_a_bids_table_is_part_of_the_store(made: Path) -> None:
    store = Store.open(made / "store")
    a = {"age": "34.5", "sex": "F", "group": "control"}
    expected = {
        "sub-a_ses-1": a,
        "sub-a_ses-2": a,
        "sub-b": {"age": "89+", "sex": "m"},
        "sub-c": {"sex": "F", "group": "patient"},
        "sub-d": {},
    }
    assert told(store) == expected
    assert store.records[0].about["covariates"] == a and "covariates" not in store.records[0].to_dict()
    assert dict(store.covariates.columns) == {
        "age": Column(None, "years", "age at scan", missing=2),
        "sex": Column({"F": "female", "m": "male", "o": "other"}, missing=1),
        "group": Column({"control": "", "patient": ""}, missing=2),
    }
    text = (made / "store" / "manifest.json").read_text()
    assert "stranger" not in text and "Eve" not in text, "whoever has no scan, and columns that nobody asked for, stay outside"


def test_the_cohort_is_the_same_with_a_table_and_without(made: Path, store: Path) -> None:
    before = Store.open(store)
    content = json.loads((store / "manifest.json").read_text())
    del content[KEY], content["seal"]  # as versions wrote it that knew no table
    (store / "manifest.json").write_text(json.dumps(content))
    older = Store.open(store)
    assert older.fingerprint == before.fingerprint and not older.covariates.columns and not any(told(older).values())
    table = made / "other.csv"
    table.write_text("scan_id,age,tall\nsub-a_ses-1,34,1.7\nsub-a_ses-2,36,1.7\nb,50,1.9\n")
    participants(store, table, columns=["age", "tall"])
    later = Store.open(store)
    assert later.fingerprint == before.fingerprint and later.covariates.fingerprint != before.covariates.fingerprint
    assert told(later)["sub-a_ses-2"] == {"age": "36", "tall": "1.7"} and told(later)["sub-b"]["age"] == "50"
    assert later.covariates.columns["age"] == Column(None, "year", missing=2)
    ingest(made / "in", store, CONFIG)
    assert told(Store.open(store)) == told(later), "an ingest that goes on keeps what the store was told"
    ingest(made / "in", store, CONFIG, participants=made / "in" / "participants.tsv", columns=["sex"])
    assert told(Store.open(store))["sub-b"] == {"sex": "m"}


def test_a_table_that_was_changed_in_the_manifest_is_noticed(store: Path) -> None:
    path = store / "manifest.json"
    path.write_text(path.read_text().replace('"34.5"', '"43.5"'))
    with pytest.raises(UserError, match="its seal does not fit"):
        Store.open(store)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\tage\na\t3\n", "has the columns name, age"),
        ("participant_id\theight\nsub-a\t3\n", "has the columns participant_id, height; expected one of age, sex, group, site"),
        ("participant_id\tage\nsub-z\t3\n", "names nobody of the store"),
        ("participant_id\tage\nsub-a\t3\nsub-a\t4\n", "line 3: says of somebody another 'age'"),
        ("participant_id\tage\tage\nsub-a\t3\t4\n", "has two columns 'age'"),
    ],
)
def test_what_cannot_be_used_is_refused_and_names_nobody(text: str, message: str, made: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text(text)
    before = (store / "manifest.json").read_bytes()
    with pytest.raises(UserError) as caught:
        participants(store, tmp_path / "table.tsv")
    assert message in str(caught.value) and "sub-a" not in str(caught.value)
    assert (store / "manifest.json").read_bytes() == before


def test_free_text_is_refused(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volgen.data.covariates.MOST_LEVELS", 2)
    (tmp_path / "table.tsv").write_text("participant_id\tgroup\nsub-a\tx\nsub-b\ty\nsub-c\tz\n")
    with pytest.raises(UserError, match="column 'group': has 3 different values"):
        participants(store, tmp_path / "table.tsv")


def test_a_bad_table_of_the_source_is_a_warning(made: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(made / "in", tmp_path / "in"))
    (source / "participants.tsv").write_text("participant_id\nsub-a\n")
    summary = ingest(source, tmp_path / "store", CONFIG)
    assert any("nothing of participants.tsv was taken" in warning for warning in summary.warnings)
    assert KEY not in json.loads((tmp_path / "store" / "manifest.json").read_text())


def test_numbers() -> None:
    assert [numeric(cell) for cell in ("3", "-2.5e1", "89+", "nan", "inf", "x", "")] == [3.0, -25.0, 89.0, None, None, None, None]
    assert Covariates.from_dict({}) == Covariates()
