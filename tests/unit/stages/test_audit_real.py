"""The audit on real brains: it finds a model made to memorise, does not accuse a private one, and catches noise that was left out.

14 mm, 12 x 16 x 12 voxels: about a minute of one core for each.
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


@pytest.fixture(scope="module", name="store")
def _store(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 people of one study, 16 of them for training: the coins of seed 1 put eight on each side."""
    folder = tmp_path_factory.mktemp("cohort")
    scans, store = folder / "scans", folder / "store"
    scans.mkdir()
    for person in (test_data / "brains-2mm").glob("sub-DEP*"):
        (scans / person.name).symlink_to(person)
    ingest(scans, store, IngestConfig(shape=SHAPE, voxel_size=14.0, validation=0.1, test=0.7))
    return store


def recipe(store: Path, name: str, steps: int, batch: int, **sections: Any) -> Recipe:
    """The noise levels at which memory shows first, and a network that is quick at it: two Haar levels leave 3 x 4 x 3 places."""
    content: dict[str, Any] = {
        "name": name, "runs": str(store.parent / "runs"), "seed": 1,
        "data": {"store": str(store), "shape": list(SHAPE), "batch_size": batch, "workers": 1, "half": {"seed": 1, "side": "a"}},
        "schedule": {"kind": "log_snr", "points": 8, "sigma_min": 0.1, "sigma_max": 1.5},
        "network": {"kind": "wavelet_unet3d", "channels": [32], "norm_groups": 4, "haar_levels": 2},
        "preconditioner": {"kind": "edm"},
        "optimiser": {"warmup_steps": 10, "gradient_clip": 0.0, "learning_rate": 5e-3},
        "stopping": {"max_steps": steps, "min_steps": steps, "validate_every": steps, "validation_draws": 1, "validation_volumes": 2},
        "engine": {"checkpoint_every": steps},
        **sections,
    }  # fmt: skip
    found = validate(Recipe, content, "test")
    assert len(found.data.records(Store.open(store), "train")) == 8
    return found


def private(epsilon: float, views: int) -> dict[str, Any]:
    return {"privacy": {"kind": "dp_sgd", "epsilon": epsilon, "delta": 1e-3, "accountant": "rdp", "views": views}}


def audited(run: Path, store: Path, out: Path) -> tuple[int, dict[str, Any]]:
    words = ["audit", str(run), "--members", str(store), "--out", str(out), "--batch-size", "8", "--levels", "2", "--count", "24"]
    code = cli.main(words)
    return code, json.loads((out / "audit.json").read_text())


def test_a_model_made_to_memorise_eight_people_is_found(store: Path, tmp_path: Path) -> None:
    code, found = audited(train(recipe(store, "memory", 1000, 16)), store, tmp_path / "audit")
    assert code == 1
    assert found["membership"]["leaks"] and found["membership"]["statistics"][found["membership"]["best"]]["auc"] > 0.95
    assert found["epsilon"]["epsilon"] > 0.4
    assert found["claim"]["epsilon"] is None and not found["refuted"]
    statement = (tmp_path / "audit" / "statement.html").read_text()
    assert "There is no privacy guarantee." in statement and "who was trained on can be told" in statement


def test_a_private_model_of_the_same_people_is_not_accused(store: Path, tmp_path: Path) -> None:
    run = train(recipe(store, "private", 200, 4, **private(3.0, 4)))
    code, found = audited(run, store, tmp_path / "audit")
    assert code == 0 and not found["findings"]
    assert found["epsilon"]["epsilon"] <= found["claim"]["epsilon"] <= 3.0


def test_noise_that_was_left_out_refutes_the_ledger(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 16 coins and nine tests the most that can be shown at all is epsilon 0.96, if every guess is right; the claim is 0.4."""
    monkeypatch.setattr(Secret, "normal", lambda self, shape, *key: torch.zeros(shape, dtype=torch.float64))
    run = train(recipe(store, "silent", 400, 2, **private(0.4, 16)))
    code, found = audited(run, store, tmp_path / "audit")
    assert code == 1 and found["refuted"]
    assert found["epsilon"]["epsilon"] > 0.4 >= found["claim"]["epsilon"]
    assert "REFUTED" in found["findings"][0]
    assert "must not be released" in (tmp_path / "audit" / "statement.html").read_text()
