"""`volgen bench experts`: the figures are those of networks, noise and people put together by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from volgen.bench import experts
from volgen.bench._shared import denoising
from volgen.bench._shared.bootstrap import interval
from volgen.cli import main
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.rng import normal
from volgen.data.store import Store
from volgen.experts import ensemble as ensembles
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.recipe import Recipe
from volgen.runs import trained
from volgen.runs.trained import open_run

CPU = torch.device("cpu")


def _train(store: Path, runs: Path, name: str, **sections: Any) -> Path:
    content: dict[str, Any] = {
        "name": name, "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 3.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 3},
        "optimiser": {"learning_rate": 0.01},
        "stopping": {"max_steps": 2, "min_steps": 2, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    return train(validate(Recipe, {**content, **sections}, "test"))


@pytest.fixture(scope="module")
def pair(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A single network, and a bank of two that begins with a shared one."""
    runs = tmp_path_factory.mktemp("runs")
    one = _train(blob_store, runs, "one", experts={"count": 1})
    return [one, _train(blob_store, runs, "two", experts={"count": 2, "shared_steps": 3, "warm_start": "shared"})]


def test_figures_are_those_of_each_owner_on_the_same_noise(
    pair: list[Path], blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "experts.json"
    words = ["bench", "experts", *map(str, pair), "--store", str(blob_store), "--split", "validation", "--volumes", "3", "--device", "cpu"]
    assert main([*words, "--batch-size", "2", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    rows = {row["name"]: row for row in content["rows"]}
    store = Store.open(blob_store)
    x = torch.stack([torch.from_numpy(store.read_unit(record)) * 2 - 1 for record in store.split("validation")[:3]])[:, None]
    found: dict[str, list[list[float]]] = {"preconditioner alone": [], "one": [], "two": []}
    for directory in pair:
        run = open_run(directory)
        preconditioner = run.preconditioner(CPU)
        for sigma in sorted(run.ensemble.grid, reverse=True):
            y = x + sigma * torch.stack([normal(x.shape[1:], 0, "eval", index, str(sigma)) for index in range(3)])
            sigma_B = torch.full((3,), sigma)
            network = run.recipe.network.build(inputs=2)
            network.load_state_dict(
                load_file(directory / next(e.weights for e in run.ensemble.experts if e.sigma_low <= sigma < e.sigma_high))
            )
            with torch.no_grad():
                made = {directory.name: PreconditionedDenoiser(network.eval(), preconditioner)(y, sigma_B)}
                made["preconditioner alone"] = preconditioner.expected(y, sigma_B)  # type: ignore[attr-defined]
            for name, x0 in made.items():
                errors = preconditioner.weight(sigma_B) * (x0 - x).square().mean(dim=(1, 2, 3, 4))
                assert rows[f"{name} sigma {sigma:.4g}"]["value"] == pytest.approx(float(errors.mean()), rel=1e-4)
                found[name].append(errors.tolist())
    means = {name: float(np.mean(errors)) for name, errors in found.items()}
    for name in ("one", "two"):
        assert rows[f"{name} mean"]["value"] == pytest.approx(means[name], rel=1e-4)
        ratio = rows[f"{name} mean"]["ratio_to"]["preconditioner alone mean"]
        assert ratio == pytest.approx(means[name] / means["preconditioner alone"], rel=1e-4)
    assert (rows["one steps"]["value"], rows["two steps"]["value"]) == (2, 3 + 2 * 2), "the shared network's steps count too"
    by_person = np.mean(found["two"], axis=0) - np.mean(found["one"], axis=0)
    assert rows["two minus one mean"]["value"] == pytest.approx(by_person.mean(), rel=1e-2, abs=1e-6)
    low, high = rows["two minus one mean"]["interval"]
    assert by_person.min() - 1e-6 <= low <= by_person.mean() + 1e-6 and by_person.mean() - 1e-6 <= high <= by_person.max() + 1e-6
    assert "one minus one mean" not in rows and "interval" not in rows["one mean"]
    shown = capsys.readouterr().out
    assert f"| two | 7 | {rows['two mean']['value']:.4f} | {rows['two minus one mean']['value']:+.4f} [" in shown
    assert str(tmp_path) not in out.read_text() and str(pair[0].parent) not in out.read_text(), "no folder of anybody's machine"


def test_runs_that_cannot_be_compared_are_refused(
    pair: list[Path], blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*words: object) -> str:
        assert main(["bench", "experts", *map(str, words), "--device", "cpu"]) == 2
        return capsys.readouterr().err

    assert "twice" in refused(pair[0], pair[0], "--store", blob_store)
    assert "there is no such directory" in refused(pair[0], tmp_path / "none", "--store", blob_store)
    assert "invalid choice: 'tset'" in refused(pair[0], "--store", blob_store, "--split", "tset")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(pair[0], unfinished)
    (unfinished / "ensemble.json").unlink()
    assert "ensemble.json" in refused(unfinished, "--store", blob_store)
    (tmp_path / "other").mkdir()
    shutil.copytree(pair[0], tmp_path / "other" / "one")
    bank = ensembles.read(pair[0] / "ensemble.json")
    ensembles.write(tmp_path / "other" / "one" / "ensemble.json", replace(bank, grid=bank.grid[:1] + bank.grid[2:], files={}))
    monkeypatch.setattr(trained, "_check_levels", lambda *_: None)
    assert "has other noise levels than" in refused(pair[0], tmp_path / "other" / "one", "--store", blob_store)


def test_directories_are_told_apart_by_as_little_as_it_takes() -> None:
    assert denoising.names_of([Path("a/k1"), Path("a/k4")]) == ["k1", "k4"]
    assert denoising.names_of([Path("a/k1"), Path("b/k1"), Path("b/k4")]) == ["a/k1", "b/k1", "b/k4"]


def test_a_person_with_many_scans_counts_once() -> None:
    difference = np.array([[1.0], [1.0], [1.0], [5.0]])
    mean, at_sigma = experts._differences("b minus a", difference, np.array([0, 0, 0, 1]), [0.5], seed=0)
    assert (mean.value, at_sigma.name) == (3.0, "b minus a sigma 0.5")
    assert mean.interval == (1.0, 5.0)


def test_the_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    low, high = interval(values, seed=0)
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.005)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.005)
    assert interval(values, seed=0) == (low, high)
