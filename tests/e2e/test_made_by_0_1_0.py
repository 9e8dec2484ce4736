"""What users have from volgen 0.1.0 still opens, continues and gives the same numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from volgen import cli
from volgen.data.store import Store
from volgen.runs.trained import open_run

pytestmark = pytest.mark.e2e
Files = dict[str, bytes]


def files(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def volgen(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture
def there(made_by_0_1_0: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made_by_0_1_0)
    return made_by_0_1_0


def test_a_finished_run_is_finished_and_draws_the_same_volumes(there: Path) -> None:
    before = files(there / "runs/finished")
    assert volgen("train", "--config", "run.yaml") == 0
    after = files(there / "runs/finished")
    assert {name: after[name] for name in before if not name.endswith(".lock")} == {
        name: content for name, content in before.items() if not name.endswith(".lock")
    }
    run = open_run(there / "runs/finished")
    assert run.fingerprint == json.loads((there / "samples/sub-0001_T1w.json").read_text())["RunFingerprint"]
    assert volgen("sample", "runs/finished", "--out", "again", "--count", "2", "--seed", "5") == 0
    images = sorted((there / "again").rglob("sub-*.nii.gz"))
    assert len(images) == 2
    for drawn, old in zip(images, sorted((there / "samples").glob("sub-*.nii.gz")), strict=True):
        now, then = nib.load(drawn), nib.load(old)
        assert np.array_equal(now.affine, then.affine)
        # Another processor may round otherwise.
        assert np.abs(now.get_fdata() - then.get_fdata()).max() < 1e-4 * np.ptp(then.get_fdata())


def test_an_unfinished_run_goes_on_to_the_weights_that_0_1_0_came_to(there: Path, same_weights: Callable[[Path, Path], None]) -> None:
    assert volgen("train", "--config", "run.yaml", "--name", "unfinished") == 0
    same_weights(there / "runs/unfinished", there / "runs/finished")
    assert not list((there / "runs/unfinished").rglob("checkpoint-*"))
    assert not list((there / "runs/unfinished").rglob("*training*"))


@pytest.mark.parametrize("name", ["finished", "private"])
def test_another_configuration_is_still_refused(there: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = "run.yaml" if name == "finished" else "private.yaml"
    before = files(there / "runs" / name)
    assert volgen("train", "--config", config, "--optimiser.learning_rate", "0.5") == 2
    assert "optimiser.learning_rate" in capsys.readouterr().err
    assert files(there / "runs" / name) == before


def test_a_private_run_draws_volumes(there: Path) -> None:
    assert volgen("sample", "runs/private", "--out", "again", "--count", "1", "--seed", "5") == 0
    (drawn,), (old,) = (sorted((there / name).rglob("sub-*.nii.gz")) for name in ("again", "samples_private"))
    now, then = nib.load(drawn).get_fdata(), nib.load(old).get_fdata()
    assert np.abs(now - then).max() < 1e-4 * np.ptp(then)


VOID = "made by volgen 0.1.0 and is void"


def test_a_void_private_run_is_refused_as_void_not_as_damaged(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert volgen("release", "runs/private", "out") == 2
    message = capsys.readouterr().err
    assert "was made by volgen 0.1.0 and is void" in message and "another form" not in message and "from a copy" not in message
    assert not (there / "out").exists()


def test_the_ledger_of_a_private_run_is_void_wherever_it_is_read(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a patient added to a step depended on who else was in the cohort."""
    before = files(there / "runs/private")
    assert volgen("train", "--config", "private.yaml") == 0
    assert VOID in capsys.readouterr().err, "finished, and of no use"
    claim = json.loads(before["privacy_ledger.json"])
    assert open_run(there / "runs/private").privacy.startswith("No privacy guarantee: the ledger, which claims (")
    assert volgen("statement", "runs/private", "--out", "again") == 0
    said = json.loads((there / "again/statement.json").read_text())
    assert not said["guarantee"] and "void" in said["headline"] and VOID in said["protected"][0]
    assert volgen("sample", "runs/private", "--out", "drawn", "--count", "1", "--seed", "5") == 0
    (sidecar,) = sorted((there / "drawn").rglob("sub-*.json"))
    assert VOID in json.loads(sidecar.read_text())["PrivacyStatement"]
    assert claim["epsilon"] > 0 and {name: content for name, content in files(there / "runs/private").items() if "lock" not in name} == {
        name: content for name, content in before.items() if "lock" not in name
    }


@pytest.mark.parametrize("command", ["train", "plan"])
def test_an_unfinished_private_run_is_not_continued(there: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(there / "runs/private_unfinished")
    machine = ("--nodes", "1", "--gpus-per-node", "1", "--gpu-memory", "8") if command == "plan" else ()
    assert volgen(command, "--config", "private.yaml", "--name", "private_unfinished", *machine) == 2
    message = capsys.readouterr().err
    assert VOID in message and "begin again" in message.lower()
    after = files(there / "runs/private_unfinished")
    assert {name for name in before if before[name] != after.get(name)} <= {".lock", ".privacy.lock", ".metrics.lock"}


def test_a_store_opens_whole_and_is_ingested_again_without_a_change(there: Path, cohort: Path) -> None:
    store = Store.open(there / "cohort.zarr")
    assert len(store.records) == 14 and all(np.isfinite(store.read(record).voxels).all() for record in store.records)
    (there / "scans").mkdir()
    shutil.copy(cohort / "dataset_description.json", there / "scans")
    for record in store.records:
        shutil.copytree(cohort / record.patient, there / "scans" / record.patient)
    options = ("--shape", "16", "--voxel-size", "14", "--workers", "1", "--validation", "0.25")
    assert volgen("ingest", "scans", "cohort.zarr", *options) == 0
    again = Store.open(there / "cohort.zarr")
    assert again.fingerprint == store.fingerprint
    assert [record.to_dict() for record in again.records] == [record.to_dict() for record in store.records]


def test_a_finished_run_is_audited(there: Path, cohort: Path) -> None:
    store = Store.open(there / "cohort.zarr")
    known, before = {record.patient for record in store.records}, files(there / "runs/finished")
    (there / "scans").mkdir()
    shutil.copy(cohort / "dataset_description.json", there / "scans")
    for folder in [path for path in sorted(cohort.glob("sub-*")) if path.name not in known][:5]:
        shutil.copytree(folder, there / "scans" / folder.name)
    assert volgen("ingest", "scans", "others.zarr", "--shape", "16", "--voxel-size", "14", "--workers", "1") == 0
    people = ("--members", "cohort.zarr", "--non-members", "others.zarr")
    assert volgen("audit", "runs/finished", *people, "--out", "audit", "--count", "2", "--levels", "2", "--draws", "2") in (0, 1)
    found = json.loads((there / "audit/audit.json").read_text())
    assert found["run_fingerprint"] == open_run(there / "runs/finished").fingerprint and found["claim"]["epsilon"] is None
    assert (found["people"]["members"], found["people"]["others"]) == (sum(r.split == "train" for r in store.records), 5)
    assert found["people"]["store_checked"] and 0 <= found["membership"]["p_value"] <= 1 and found["nearest"]["drawn"] == 2
    assert files(there / "runs/finished") == before, "an audit looks, and changes nothing"


def test_samples_a_reference_and_a_report_are_taken(there: Path) -> None:
    assert volgen("report", "samples", "--reference", "cohort.zarr", "--out", "report") == 0
    assert volgen("report", "samples", "--reference", "report/bands.json", "--out", "other") == 0
    verdicts = [
        [volume["verdict"] for volume in json.loads((there / name / "report.json").read_text())["volumes"]] for name in ("report", "other")
    ]
    assert verdicts[0] == verdicts[1] and len(verdicts[0]) == 2


@pytest.mark.parametrize("command", ["export", "sample", "statement"])
def test_folders_of_0_1_0_are_continued_or_refused_but_never_changed(there: Path, command: str) -> None:
    words: dict[str, Callable[[], int]] = {
        "export": lambda: volgen("export", "cohort.zarr", "--out", "export"),
        "sample": lambda: volgen("sample", "runs/finished", "--out", "samples", "--count", "2", "--seed", "6"),
        "statement": lambda: volgen("statement", "runs/finished", "--out", "statement"),
    }
    folder = there / {"sample": "samples"}.get(command, command)
    before = files(folder)
    code = words[command]()
    after = files(folder)
    images = {name: content for name, content in before.items() if name.endswith((".nii.gz", ".csv"))}
    assert code == 2 or command == "statement"
    assert images.items() <= after.items()
