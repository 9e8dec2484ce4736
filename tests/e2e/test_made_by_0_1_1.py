"""What users have from volgen 0.1.1 still opens, continues and gives the same numbers; its private runs keep their guarantee."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from volgen import cli
from volgen.runs.trained import open_run

pytestmark = pytest.mark.e2e


def volgen(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "privacy_journal.jsonl").read_text().splitlines()]


@pytest.fixture
def there(made_by_0_1_1: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made_by_0_1_1)
    return made_by_0_1_1


@pytest.mark.parametrize(("name", "samples", "count"), [("finished", "samples", 2), ("private", "samples_private", 1)])
def test_a_finished_run_draws_the_same_volumes_under_the_same_fingerprint(there: Path, name: str, samples: str, count: int) -> None:
    assert volgen("train", "--config", "run.yaml" if name == "finished" else "private.yaml") == 0
    (sidecar, *_) = sorted((there / samples).rglob("sub-*.json"))
    assert open_run(there / "runs" / name).fingerprint == json.loads(sidecar.read_text())["RunFingerprint"]
    assert volgen("sample", f"runs/{name}", "--out", "again", "--count", str(count), "--seed", "5") == 0
    pairs = list(zip(sorted((there / "again").rglob("*.nii.gz")), sorted((there / samples).rglob("*.nii.gz")), strict=True))
    assert len(pairs) == count
    for drawn, old in pairs:
        now, then = nib.load(drawn), nib.load(old)
        assert np.array_equal(now.affine, then.affine)
        # Another processor may round otherwise.
        assert np.abs(now.get_fdata() - then.get_fdata()).max() < 1e-4 * np.ptp(then.get_fdata())


def test_samples_of_0_1_1_are_continued(there: Path) -> None:
    before = {path: path.read_bytes() for path in (there / "samples").rglob("*.nii.gz")}
    assert volgen("sample", "runs/finished", "--out", "samples", "--count", "3", "--seed", "5") == 0
    assert len(list((there / "samples").rglob("*.nii.gz"))) == 3
    assert all(path.read_bytes() == content for path, content in before.items())


def test_an_unfinished_run_goes_on_to_the_weights_that_0_1_1_came_to(there: Path, same_weights: Callable[[Path, Path], None]) -> None:
    assert volgen("train", "--config", "run.yaml", "--name", "unfinished") == 0
    same_weights(there / "runs/unfinished", there / "runs/finished")


def test_an_unfinished_private_run_goes_on_with_its_journal(there: Path) -> None:
    run = there / "runs/private_unfinished"
    before = journal(run)
    taken = len(before) - 1
    assert volgen("train", "--config", "private.yaml", "--name", "private_unfinished") == 0
    after = journal(run)
    assert after[: len(before)] == before, "what was spent stays spent"
    assert 0 < taken < len(after) - 1 and [line["n"] for line in after[1:]] == list(range(len(after) - 1))
    assert {*after[-1]} == {*before[-1]}, "in the form that it has"
    spent = json.loads((run / "privacy_ledger.json").read_text())
    assert 0 < spent["epsilon"] <= 6 and sum(entry["steps"] for entry in spent["entries"]) == len(after) - 1
    assert not open_run(run).privacy.startswith("No privacy guarantee")


def test_a_private_run_leaves_the_house_with_its_guarantee(there: Path) -> None:
    claimed = json.loads((there / "runs/private/privacy_ledger.json").read_text())["epsilon"]
    assert volgen("release", "runs/private", "out") == 0
    statement = json.loads((there / "out/statement.json").read_text())
    assert statement["guarantee"] and json.loads((there / "out/privacy_ledger.json").read_text())["epsilon"] == claimed
    assert volgen("sample", "out", "--out", "drawn", "--count", "1", "--seed", "5") == 0
