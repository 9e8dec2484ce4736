"""The attack that showed epsilon 8 to be 19 to 238 in volgen 0.1.0 finds no more than the ledger allows.

The full form, on real scans: ``pytest -m slow -s tests/unit/privacy/test_attack.py`` with VOLGEN_TEST_DATA set; ATTACK_RUNS is the number
of runs of each world.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from volgen.commands.ingest.ingest import ingest
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.privacy.accounting import calibrate
from volgen.privacy.gaussian import epsilon_of

from .attack import KnownDraws, contributions, leave_out, recipe, separation, world

SHAPE, REAL = (8, 8, 8), (12, 16, 12)
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    (folder / "scans").mkdir()
    for person in range(12):
        voxels = generator.normal(size=SHAPE).astype(np.float32) + np.linspace(-2, 2, 8, dtype=np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([8.0, 8.0, 8.0, 1.0])), folder / "scans" / f"sub-{person:02d}_T1w.nii.gz")
    ingest(folder / "scans", folder / "store", IngestConfig(shape=SHAPE, voxel_size=8.0, validation=0.0, test=0.0))
    return folder / "store"


@pytest.mark.parametrize("place", [0, 5, -1])
@pytest.mark.parametrize("contrasts", [False, True])
def test_leaving_a_patient_out_moves_the_sum_by_their_contribution_alone(store: Path, tmp_path: Path, place: int, contrasts: bool) -> None:
    people = sorted({record.patient for record in Store.open(store).split("train")})
    asked = recipe(store, tmp_path, "run", SHAPE, len(people))
    found = leave_out(asked, store, people[place], tmp_path, KEY, contrasts)
    assert (found.changed, found.others) == (0, len(people) - 1)
    assert found.moves <= 1.0 + 1e-5, "more than the clip norm: sigma, the ledger and epsilon are wrong"


def test_draws_by_place_as_in_0_1_0_are_noticed(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_place(self: KnownDraws, patient: str) -> int:
        return self.order.index(patient)

    monkeypatch.setattr(KnownDraws, "seed", by_place)
    people = sorted({record.patient for record in Store.open(store).split("train")})
    found = leave_out(recipe(store, tmp_path, "run", SHAPE, len(people)), store, people[0], tmp_path, KEY, True)
    assert found.changed == found.others and found.moves > 1.5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_released_weights_tell_no_more_than_the_ledger_allows(test_data: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for folder in sorted((test_data / "brains-2mm").glob("sub-IXI*")):
        shutil.copytree(folder, tmp_path / "scans" / folder.name)
    shutil.copy(test_data / "brains-2mm" / "dataset_description.json", tmp_path / "scans")
    store = tmp_path / "store"
    ingest(tmp_path / "scans", store, IngestConfig(shape=REAL, voxel_size=14.0, validation=0.02, test=0.0))
    people, count = sorted({record.patient for record in Store.open(store).split("train")}), int(os.environ.get("ATTACK_RUNS", "6"))
    gone = people[0]
    for contrasts in (False, True):
        asked = recipe(store, tmp_path / "contributions", "run", REAL, len(people))
        found = leave_out(asked, store, gone, tmp_path, KEY, contrasts)
        print(f"\ncontrasts {contrasts}: {found.changed} of {found.others} others change, the sum moves by {found.moves:.3f} C")
        for epsilon, delta in ((0.5, 1e-5), (1.0, 1e-5), (3.0, 1e-3), (8.0, 1e-5)):
            mu = found.moves / calibrate(epsilon, delta, 1.0, 1)
            print(f"  ledger {epsilon:g} at {delta:g}: mu {mu:.3f}, epsilon {epsilon_of(mu, delta):.3f}")
        assert found.changed == 0 and found.moves <= 1.0 + 1e-5
        with world(store, contrasts=contrasts):  # without the secret the best guess is what the patient adds on average
            guesses = [contributions(asked, tmp_path, bytes([number] * 32))[gone] for number in range(8)]
        guess = torch.stack(guesses).mean(dim=0)
        for told, direction, key in (("told the draws", found.direction, KEY), ("not told the draws", guess / guess.norm(), None)):
            runs = tmp_path / f"{contrasts}{told}".replace(" ", "-")
            apart, error, most = separation(store, runs, REAL, len(people), gone, direction, count, contrasts=contrasts, key=key)
            print(f"  {told}: scores {apart:.2f} +- {error:.2f} apart, {most:.2f} allowed", flush=True)
            assert apart <= most + 3.0 * error
