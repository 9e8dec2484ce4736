"""The audit on real brains: it finds a model made to memorise, does not accuse a private one, and catches noise that was left out.

14 mm, 12 x 16 x 12 voxels: one to three minutes of one core for a training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from volgen import cli
from volgen.core.config import validate
from volgen.data.preprocess import IngestConfig
from volgen.data.store import Store
from volgen.privacy._secret import Secret
from volgen.recipe import Recipe
from volgen.stages.ingest import ingest
from volgen.stages.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SHAPE = (12, 16, 12)


def cohort(test_data: Path, folder: Path, test: float) -> Path:
    """61 people of one study."""
    scans, store = folder / "scans", folder / "store"
    scans.mkdir()
    for person in (test_data / "brains-2mm").glob("sub-DEP*"):
        (scans / person.name).symlink_to(person)
    ingest(scans, store, IngestConfig(shape=SHAPE, voxel_size=14.0, validation=0.1, test=test))
    return store


def recipe(store: Path, name: str, half: dict[str, Any], steps: int, batch: int, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": name, "runs": str(store.parent / "runs"), "seed": 1,
        "data": {"store": str(store), "shape": list(SHAPE), "batch_size": batch, "workers": 1, "half": half},
        "schedule": {"kind": "log_snr", "points": 8, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [24, 48], "norm_groups": 4},
        "preconditioner": {"kind": "edm"},
        "optimiser": {"warmup_steps": 10, "gradient_clip": 0.0, "learning_rate": 3e-3, "decay_to": 0.1},
        "stopping": {"max_steps": steps, "min_steps": steps, "validate_every": steps, "validation_draws": 1, "validation_volumes": 2},
        "engine": {"checkpoint_every": steps},
        **sections,
    }  # fmt: skip
    return validate(Recipe, content, "test")


def private(epsilon: float, delta: float, views: int) -> dict[str, Any]:
    return {"privacy": {"kind": "dp_sgd", "epsilon": epsilon, "delta": delta, "accountant": "rdp", "views": views}}


def audited(run: Path, store: Path, out: Path, count: int = 16, levels: int = 4) -> tuple[int, dict[str, Any]]:
    words = ["audit", str(run), "--members", str(store), "--out", str(out), "--batch-size", "8"]
    words += ["--count", str(count), "--levels", str(levels)]
    code = cli.main(words)
    return code, json.loads((out / "audit.json").read_text())


@pytest.fixture(scope="module")
def eight(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which side a of seed 3 is eight people."""
    return cohort(test_data, tmp_path_factory.mktemp("eight"), 0.65)


EIGHT = {"seed": 3, "side": "a"}


def test_a_model_made_to_memorise_eight_people_is_found(eight: Path, tmp_path: Path) -> None:
    settings = recipe(eight, "memory", EIGHT, 1200, 8)
    assert len(settings.data.records(Store.open(eight), "train")) == 8
    code, found = audited(train(settings), eight, tmp_path / "audit")
    assert code == 1
    assert found["membership"]["leaks"] and found["membership"]["statistics"][found["membership"]["best"]]["auc"] > 0.95
    assert found["nearest"]["leaks"]
    assert found["claim"]["epsilon"] is None and not found["refuted"]
    statement = (tmp_path / "audit" / "statement.html").read_text()
    assert "There is no privacy guarantee." in statement and found["membership"]["verdict"] in statement


def test_a_private_model_of_the_same_people_is_not_accused(eight: Path, tmp_path: Path) -> None:
    run = train(recipe(eight, "private", EIGHT, 300, 4, **private(3.0, 1e-3, 1)))
    code, found = audited(run, eight, tmp_path / "audit")
    assert code == 0 and not found["findings"]
    assert found["epsilon"]["epsilon"] <= found["claim"]["epsilon"] <= 3.0


def test_noise_that_was_left_out_refutes_the_ledger(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 26 coins and three tests the most that can be shown at all is epsilon 1.8; so the claim is 1."""
    store = cohort(test_data, tmp_path, 0.5)
    monkeypatch.setattr(Secret, "normal", lambda self, shape, *key: torch.zeros(shape, dtype=torch.float64))
    run = train(recipe(store, "silent", {"seed": 4, "side": "a"}, 1000, 2, **private(1.0, 1e-3, 8)))
    code, found = audited(run, store, tmp_path / "audit", count=0, levels=1)
    assert code == 1 and found["refuted"]
    assert found["epsilon"]["epsilon"] > 1.0 >= found["claim"]["epsilon"]
    assert "REFUTED" in found["findings"][0]
    assert "must not be released" in (tmp_path / "audit" / "statement.html").read_text()
