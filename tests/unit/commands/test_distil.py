"""A student from end to end: trajectories that go on where they were stopped, a run like any other, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from volgen.cli import main
from volgen.commands.distil import Config
from volgen.commands.distil.distil import levels_kept, prepare, sizes_of
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.protocols import Problem
from volgen.data.store import Store
from volgen.models.haar import means
from volgen.recipe import Recipe, load
from volgen.runs.trained import open_run
from volgen.sampling.descent import Descent, down
from volgen.sampling.samplers import dpmpp_2m

SHAPE = (16, 16, 16)


@pytest.fixture(scope="module")
def teacher(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    content: dict[str, Any] = {
        "name": "teacher", "runs": str(tmp_path_factory.mktemp("runs")),
        "data": {"store": str(blob_store), "shape": SHAPE, "batch_size": 2, "augment": {"flip_left_right": True}},
        "mirrored": True,  # which is the teacher's way to draw, and none of a student, that learns from what was drawn
        "schedule": {"kind": "log_snr", "points": 6, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4, "dropout": 0.1},
        "preconditioner": {"kind": "gaussian", "rank": 2, "folds": 2}, "experts": {"count": 3},
        "optimiser": {"learning_rate": 0.01, "warmup_steps": 1},
        "stopping": {"max_steps": 4, "min_steps": 4, "validate_every": 4, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    return train(validate(Recipe, content, "test"))


def test_levels_are_where_experts_begin_and_some_below() -> None:
    grid = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert levels_kept(grid, 2, 0) == [8.0, 4.0] and levels_kept(grid, 1, 1) == [8.0, 4.0]
    assert levels_kept(grid, 2, 1) == [8.0, 6.0, 4.0, 2.0] and levels_kept(grid, 4, 9) == grid
    with pytest.raises(UserError, match="9 experts cannot share 8 grid points"):
        levels_kept(grid, 9, 0)


def test_a_student_is_drawn_for_trained_and_sampled_from(
    teacher: Path, blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["distil", str(teacher), "--name", "pupil", "--steps", "2", "--runs", str(tmp_path), "--device", "cpu", "--inner", "1"]
    assert main([*words, "--count", "16", "--draw-only"]) == 0
    place = tmp_path / "pupil-trajectories.zarr"
    store, run = Store.open(place), open_run(teacher)
    grid = run.ensemble.grid
    assert [len(store.split(split)) for split in ("train", "validation")] == [14, 2]

    # A trajectory is what the teacher's solver makes of its seed; the network is never asked on the way of the student again.
    preconditioner = run.preconditioner(torch.device("cpu"))
    with run.bank(preconditioner, torch.device("cpu"), grid) as bank:
        descent = Descent(bank, dpmpp_2m.Config().build(), down(grid), 0, (1, *SHAPE), torch.device("cpu"), Problem(preconditioner.prior))
        state, seen = descent.begin(3), []
        for number in range(len(grid)):
            seen.append(state.x_BCXYZ[0, 0])
            state = descent.advance(state, number, 3)
        assert bank.loads == [2, 1, 0]
    states = store.read_states(store.records[3], SHAPE)
    assert states.shape == (5, *SHAPE)
    for kept, expected in zip(states, [seen[0], seen[1], seen[3], seen[4], state.x_BCXYZ[0, 0]], strict=False):
        np.testing.assert_allclose(kept, expected.half().float())

    # What was lost is drawn again, bit for bit; what is there stays.
    before = {name: (place / name / "states/c/0/0/0/0").read_bytes() for name in ("traj-000003", "traj-000004")}
    stamp = (place / "traj-000004" / "zarr.json").stat().st_mtime_ns
    shutil.rmtree(place / "traj-000003")
    assert main([*words, "--count", "18", "--draw-only"]) == 0
    assert {name: (place / name / "states/c/0/0/0/0").read_bytes() for name in before} == before
    assert (place / "traj-000004" / "zarr.json").stat().st_mtime_ns == stamp
    assert main([*words, "--count", "18", "--seed", "5", "--draw-only"]) == 2 and "trajectories of another run" in capsys.readouterr().err

    words += ["--count", "18", "--stopping.max_steps", "6", "--stopping.min_steps", "6"]
    assert main(words) == 0
    pupil = open_run(tmp_path / "pupil")
    assert [record.span.high > 0 for record in pupil.ensemble.experts] == [True, True] and pupil.recipe.network.dropout == 0
    assert run.recipe.mirrored and not pupil.recipe.mirrored
    assert pupil.ledger["made_of"]["fingerprint"] == run.fingerprint
    losses = [json.loads(line).get("validation_loss") for line in (tmp_path / "pupil/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(loss) for loss in losses if loss is not None)
    assert main(words) == 0 and "nothing to do" in capsys.readouterr().err
    assert main(["sample", str(tmp_path / "pupil"), "--out", str(tmp_path / "drawn"), "--count", "2", "--device", "cpu"]) == 0
    assert len(list((tmp_path / "drawn").rglob("*.nii.gz"))) == 2

    monkeypatch.setattr("volgen.bench.steps.FEWEST", 1)
    bench = ["bench", "steps", str(teacher), "--store", str(blob_store), "--samplers", "euler", "--steps", "1", "2", "6", "--count", "8"]
    assert main([*bench, "--students", str(tmp_path / "pupil"), "--out", str(tmp_path / "steps.json")]) == 0
    rows = {row["name"]: row["value"] for row in json.loads((tmp_path / "steps.json").read_text())["rows"]}
    assert rows["student pupil, 2 steps evaluations"] == 2 and -1 <= rows["student pupil, 2 steps same as reference"] <= 1
    printed = capsys.readouterr().out
    assert rows["untrained student distance"] > 0 and "same seed, same brain" in printed and rows["euler, 1 steps evaluations"] == 1
    pairs = {name for name in rows if name.startswith("student pupil, 2 steps against ") and not name.endswith("people")}
    assert pairs == {f"student pupil, 2 steps against {rival}" for rival in ("euler, 2 steps", "untrained student")}, "as many evaluations"
    minus = rows["student pupil, 2 steps distance"] - rows["euler, 2 steps distance"]
    assert rows["student pupil, 2 steps against euler, 2 steps"] == pytest.approx(minus)
    assert printed.count("| student pupil, 2 steps |") == 3 and rows["student pupil, 2 steps seconds"] > 0
    assert main([*bench, "--students", str(teacher)]) == 2 and "was not distilled from" in capsys.readouterr().err


def test_what_cannot_be_taught_or_learnt_from_is_said(teacher: Path, blob_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="7 experts cannot share 6 grid points"):
        prepare(Config(run=teacher, name="pupil", steps=7, runs=tmp_path, draw_only=True))
    recipe = load(teacher / "config.yaml")
    content = recipe.model_dump(mode="json", exclude_unset=True, serialize_as_any=True)
    pupil = {
        **content, "name": "pupil", "runs": str(tmp_path), "method": {"kind": "jump"}, "start": {"kind": "teacher", "run": str(teacher)},
        "objective": {"kind": "consistency"}, "experts": {"count": 2, "warm_start": "none"}, "sampler": {"kind": "euler"},
    }  # fmt: skip
    with pytest.raises(UserError, match="was not drawn by the teacher"):
        train(validate(Recipe, pupil, "test"))
    pupil |= {"start": {"kind": "scratch"}, "objective": {"kind": "distilled", "levels": recipe.schedule.grid()}}
    with pytest.raises(UserError, match="keeps no states of a trajectory"):
        train(validate(Recipe, pupil, "test"))


def test_no_expert_of_a_student_is_of_two_models() -> None:
    assert sizes_of([], 3) == [] and sizes_of([4, 8], 2) == [[4], [8]] and sizes_of([4, 8], 3) == [[4], [4, 4]]
    assert sizes_of([3, 2], 4) == [[2, 1], [1, 1]] and sizes_of([5, 1], 4) == [[2, 1, 2], [1]]
    assert levels_kept([8.0, 7.0, 6.0, 5.0, 4.0, 3.0], 2, 1, [2, 4]) == [8.0, 6.0, 4.0, 3.0]
    for steps in (1, 6):
        with pytest.raises(UserError, match="has experts of 2 models on 5 noise levels"):
            sizes_of([3, 2], steps)


def test_a_bank_of_levels_has_students_of_levels(blob_store: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "name": "levels", "runs": str(tmp_path), "data": {"store": str(blob_store), "shape": SHAPE, "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 6, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4, "dropout": 0.1},
        "preconditioner": {"kind": "gaussian", "rank": 2, "folds": 2},
        "experts": {"models": [{"points": [2]}, {"points": [2, 2], "level": 1, "stopping": {"max_steps": 2, "min_steps": 2}}]},
        "stopping": {"max_steps": 2, "min_steps": 2, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    run = train(validate(Recipe, content, "test"))
    words = ["distil", str(run), "--steps", "3", "--count", "16", "--inner", "1", "--device", "cpu"]
    assert main([*words, "--name", "pupil", "--stopping.max_steps", "4", "--stopping.min_steps", "4"]) == 0
    pupil, teacher = open_run(tmp_path / "pupil"), open_run(run)
    grid = pupil.recipe.build().visits(pupil.ensemble.grid, None)
    assert pupil.levels(grid) == [1, 1, 0, 0] and [record.steps for record in pupil.ensemble.experts] == [4, 4, 4]
    assert pupil.recipe.experts.alike == (1, 2) and grid == list(teacher.ensemble.grid)[::2]

    # The network of a coarser level is taught what the teacher makes of the means of a volume: a trained jump ends nearer to it.
    store, cpu = Store.open(tmp_path / "pupil-trajectories.zarr"), torch.device("cpu")
    states = torch.from_numpy(np.stack([store.read_states(record, SHAPE) for record in store.split("train")]))
    kept = store.settings["levels"]
    preconditioner = pupil.preconditioner(cpu)
    with pupil.bank(preconditioner, cpu, grid) as bank, torch.no_grad():
        begin, end = states[:, kept.index(grid[0]), None], states[:, kept.index(grid[1]), None]
        level = torch.full((len(begin),), grid[0])
        found = end_of(bank(begin, level), begin, grid[1] / grid[0])
        assert preconditioner.flow_map is not None
        flow = preconditioner.flow_map(begin, level, torch.full_like(level, grid[1]))
    assert means(found - end, 1).norm() < means(flow - end, 1).norm()
    for full in (True, False):
        out = tmp_path / f"drawn{full}"
        assert (
            main(["sample", str(tmp_path / "pupil"), "--out", str(out), "--count", "1", "--device", "cpu", *(["--full"] if full else [])])
            == 0
        )
        assert json.loads((out / "manifest.json").read_text())["config"].get("climbs", False) is not full


def end_of(d: torch.Tensor, x: torch.Tensor, left: float) -> torch.Tensor:
    return d + left * (x - d)


def test_a_student_that_jumps_to_clean_volumes_completes_half_a_head(teacher: Path, blob_store: Path, tmp_path: Path) -> None:
    words = ["distil", str(teacher), "--name", "editor", "--steps", "2", "--runs", str(tmp_path), "--device", "cpu", "--count", "16"]
    stopping = ["--stopping.max_steps", "4", "--stopping.min_steps", "4"]
    assert main([*words, "--method.to", "clean", "--sampler.kind", "renoise", *stopping]) == 0
    words = ["reconstruct", str(tmp_path / "editor"), "--simulate", str(blob_store), "--split", "validation", "--people", "1",
             "--operator", "inpaint", "--noise", "0.02", "--device", "cpu", "--count", "2"]  # fmt: skip
    assert main([*words, "--guidance", "song", "--sampler", "renoise", "--out", str(tmp_path / "completed")]) == 0
    (sample,) = (tmp_path / "completed").rglob("*desc-sample0001_T1w.json")
    assert json.loads(sample.read_text())["ChiSquare"] == pytest.approx(0.0, abs=1e-3), "the data are where they were measured"


def test_distilling_a_private_run_reads_nobody_and_costs_nothing(
    blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort.zarr"
    shutil.copytree(blob_store, cohort)
    content: dict[str, Any] = {
        "name": "private", "runs": str(tmp_path), "data": {"store": str(cohort), "shape": SHAPE, "batch_size": 3},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"}, "optimiser": {"warmup_steps": 1, "gradient_clip": 0.0},
        "stopping": {"max_steps": 2, "min_steps": 2},
        "privacy": {"kind": "dp_sgd", "epsilon": 6.0, "delta": 1e-3, "accountant": "rdp", "spare": 0.5},
    }  # fmt: skip
    run = train(validate(Recipe, content, "test"))
    before = {path.name: path.read_bytes() for path in run.glob("privacy_*")}
    words = ["distil", str(run), "--name", "pupil", "--steps", "1", "--count", "16", "--device", "cpu"]
    words += ["--stopping.max_steps", "2", "--stopping.min_steps", "2"]
    assert main([*words, "--pairs", str(cohort)]) == 2 and "Choose another --pairs" in capsys.readouterr().err

    # Post-processing is what needs nobody's scans: they are not there any more.
    shutil.rmtree(cohort)
    assert main(words) == 0
    assert {path.name: path.read_bytes() for path in run.glob("privacy_*")} == before and len(before) > 1, "no step of the ledger"
    ledger, teacher = open_run(tmp_path / "pupil").ledger, open_run(run)
    assert ledger["epsilon"] is None and not (tmp_path / "pupil" / "privacy_journal.jsonl").exists()
    assert ledger["made_of"] == {"run": "private", "fingerprint": teacher.fingerprint, "its_privacy": teacher.privacy}
    assert "differentially private" in ledger["made_of"]["its_privacy"]
    capsys.readouterr()
    assert main(["release", str(tmp_path / "pupil"), str(tmp_path / "out")]) == 2
    assert "has no privacy guarantee" in capsys.readouterr().err
