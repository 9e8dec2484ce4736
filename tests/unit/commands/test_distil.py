"""A student from end to end: trajectories that go on where they were stopped, a run like any other, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from volgen.cli import main
from volgen.commands.distil import Config
from volgen.commands.distil.distil import check, levels_kept, prepare, sizes_of
from volgen.commands.distil.trajectories import in_corners
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.protocols import Problem
from volgen.core.seal import KEY, sealed
from volgen.data.cache import Cache
from volgen.data.scan import StoredScan
from volgen.data.store import Store
from volgen.models.corners import FittedCorners
from volgen.models.haar import corner_scale, means
from volgen.origin.starts.teacher import Config as Teacher
from volgen.recipe import Recipe, load
from volgen.runs.choices import visited
from volgen.runs.trained import open_run
from volgen.sampling.descent import Descent, down
from volgen.sampling.guidances.auto import Config as Auto
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
        prepare(Config(run=teacher, name="pupil", steps=(7,), runs=tmp_path, draw_only=True))
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
    assert sizes_of([], (3,)) == [] and sizes_of([4, 8], (2,)) == [[4], [8]] and sizes_of([4, 8], (3,)) == [[4], [4, 4]]
    assert sizes_of([3, 2], (4,)) == [[2, 1], [1, 1]] and sizes_of([5, 1], (4,)) == [[2, 1, 2], [1]]
    assert levels_kept([8.0, 7.0, 6.0, 5.0, 4.0, 3.0], 2, 1, [2, 4]) == [8.0, 6.0, 4.0, 3.0]
    for steps in (1, 6):
        with pytest.raises(UserError, match="has experts of 2 models on 5 noise levels"):
            sizes_of([3, 2], (steps,))


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
    coarse = (SHAPE[0] // 2, SHAPE[1] // 2, SHAPE[2] // 2)
    states = torch.from_numpy(np.stack([store.read_states(record, coarse, 1) for record in store.split("train")])).float()
    assert (store.settings["climbs"], pupil.recipe.objective.at) == (True, (1, 1, 1, 1, 0, 0)) and states.shape[1] == 5
    kept = store.settings["levels"]
    preconditioner = pupil.preconditioner(cpu)
    with pupil.bank(preconditioner, cpu, grid, corners=True) as bank, torch.no_grad():
        begin, end = (corner_scale(1) * states[:, kept.index(sigma), None] for sigma in grid[:2])
        level = torch.full((len(begin),), grid[0])
        found = end_of(bank(begin, level), begin, grid[1] / grid[0])
        flow = FittedCorners(preconditioner).flowed(1, begin, level, torch.full_like(level, grid[1]))
    assert (found - end).norm() < (flow - end).norm()
    for full in (True, False):
        out = tmp_path / f"drawn{full}"
        assert (
            main(["sample", str(tmp_path / "pupil"), "--out", str(out), "--count", "1", "--device", "cpu", *(["--full"] if full else [])])
            == 0
        )
        assert json.loads((out / "manifest.json").read_text())["config"].get("climbs", False) is not full

    # Of coarser voxels too: each of its jumps is taken, where a denoiser's last steps are left out.
    size = 8 * pupil.geometry.voxel_size[0]
    assert teacher.finest_for(3, teacher.ensemble.grid) == 1 and pupil.finest_for(3, grid) == 0
    few = ["--out", str(tmp_path / "means"), "--count", "1", "--device", "cpu", "--voxel-size", f"{size:g}"]
    assert main(["sample", str(tmp_path / "pupil"), *few]) == 0
    whole, coarse = (nibabel.load(next((tmp_path / name).rglob("*.nii.gz"))).get_fdata() for name in ("drawnFalse", "means"))
    assert coarse.shape == (2, 2, 2)
    np.testing.assert_allclose(coarse, means(torch.from_numpy(whole)[None, None], 3)[0, 0], atol=0.1 * np.abs(whole).max())


def patched(store: Path, runs: Path) -> Path:
    """A teacher whose finest expert sees patches, and whose volumes climb and are guided away from its shared network."""
    local = {"kind": "wavelet_unet3d", "channels": [8], "norm": "pixel"}
    content: dict[str, Any] = {
        "name": "patched", "runs": str(runs), "data": {"store": str(store), "shape": SHAPE, "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 5, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
        "preconditioner": {"kind": "gaussian", "rank": 2, "folds": 2}, "optimiser": {"learning_rate": 0.01, "warmup_steps": 1},
        "experts": {"warm_start": "shared", "shared_steps": 2, "models": [
            {"points": [3], "network": local, "view": {"kind": "patches", "edge": 8, "per_scan": 2, "tile": 8}},
            {"points": [2], "level": 1},
        ]},
        "stopping": {"max_steps": 4, "min_steps": 4, "validation_volumes": 2, "validation_draws": 2},
        "guidance": {"kind": "auto", "weak": "shared", "weak_above": 0.6, "strength": 1.7},
    }  # fmt: skip
    return train(validate(Recipe, content, "test"))


def test_patches_are_taught_what_the_guided_run_draws(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, place = patched(blob_store, tmp_path), tmp_path / "pupil-trajectories.zarr"
    words = ["distil", str(run), "--steps", "2", "1", "--count", "16", "--inner", "1", "--device", "cpu", "--name", "pupil"]
    assert main([*words, "--stopping.max_steps", "24", "--stopping.min_steps", "24"]) == 0
    assert "6 states in 16 bits" in capsys.readouterr().err and main([*words, "--steps", "4", "1"]) == 2
    assert "4 of model 0, which has 3 noise levels" in capsys.readouterr().err
    store, cpu = Store.open(place), torch.device("cpu")
    record, kept = store.records[3], store.settings["levels"]
    whole, coarse = store.read_states(record, SHAPE), store.read_states(record, (8, 8, 8), 1)

    # Trajectories are those of the samples of the run where nothing else is said: guided, and climbing.
    assert main(["sample", str(run), "--out", str(tmp_path / "drawn"), "--count", "4", "--device", "cpu"]) == 0
    window = open_run(run).geometry.intensity

    def sampled(folder: str) -> Any:
        voxels = nibabel.load(next((tmp_path / folder).rglob("sub-0004*.nii.gz"))).get_fdata()
        return 2.0 * (voxels - window.low) / (window.high - window.low) - 1.0

    clean = sampled("drawn")
    np.testing.assert_allclose(whole[-1].astype(np.float64).clip(-1.0, 1.0), clean, atol=2e-3)
    main(["sample", str(run), "--out", str(tmp_path / "plain"), "--count", "4", "--device", "cpu", "--guidance", "none"])
    assert np.abs(sampled("plain") - clean).max() > 0.05, "guidance is seen"

    # States of a level are its own, and where its last jump ends: the corner of what the finer expert begins with.
    pupil = open_run(tmp_path / "pupil")
    assert len(kept) == 5 and pupil.recipe.objective.at == (1, 1, 0, 0, 0) and pupil.recipe.guidance.kind == "none"
    assert whole.shape == (4, *SHAPE) and coarse.shape == (3, 8, 8, 8)
    landed = means(torch.from_numpy(whole[:1]).float()[None], 1)[0, 0].numpy()
    np.testing.assert_allclose(coarse[-1].astype(np.float32), landed, atol=2e-2)

    # An example is a patch of them, at the place that it is told.
    scan = StoredScan(store, record, Cache(2**20), True, pupil.recipe.data.place, pupil.recipe.data.place)
    example = pupil.recipe.variants[0].cut(scan, 0, "train", 5)
    assert example.x_BCXYZ.shape == (1, 4, 16, 8, 8) and example.given.channels is not None
    for number, patch in enumerate(example.x_BCXYZ[0].chunk(2, dim=1)):
        x, y, z = ((example.given.channels[0, :, 8 * number, 0, 0] + 1) * 8).long().tolist()
        assert torch.equal(patch, torch.from_numpy(whole[:, x : x + 8, y : y + 8, z : z + 8]).float())
    assert pupil.recipe.variants[1].cut(scan, 0).x_BCXYZ.shape == (1, 3, 8, 8, 8)

    # A store that an older version began has whole volumes, and goes on with them; coarser experts see their means.
    (tmp_path / "old").mkdir()
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["config"]["climbs"]
    (tmp_path / "old/manifest.json").write_text(json.dumps(sealed({name: value for name, value in manifest.items() if name != KEY})))
    assert in_corners(place, open_run(run)) and not in_corners(tmp_path / "old", open_run(run))
    part = scan.states((2, 0, 4), (4, 4, 2), climbed=False, level=1)
    torch.testing.assert_close(part, means(torch.from_numpy(whole).float()[None], 1)[0, :, 2:6, :4, 4:6])

    # Below 0.6 guidance makes the network's output 1.7 times as large, and with that an expert begins.
    start = pupil.recipe.start.build(pupil.recipe, store, open_run)
    taught = load_file(run / "experts/0/weights.safetensors")
    first, second = (start.weights(phase) for phase in pupil.phases[:2])
    assert pupil.phases[0].points[-1] < 0.6 < pupil.phases[1].points[-1]
    assert all(torch.equal(second[name], weight) for name, weight in taught.items())
    assert all(torch.equal(first[name], weight * (1.7 if "unembed_volume" in name else 1.0)) for name, weight in taught.items())

    # What was trained jumps nearer to where the teacher came to than the teacher's weights do.
    grid = visited(pupil, None)
    assert grid == [kept[0], kept[2], kept[3]] and pupil.levels(grid) == [1, 0, 0, 0]
    teacher, preconditioner = open_run(run), pupil.preconditioner(cpu)
    states = torch.from_numpy(np.stack([store.read_states(each, SHAPE) for each in store.records])).float()
    begin, end = states[:, 0, None], states[:, 1, None]
    level, left = torch.full((len(begin),), grid[1]), grid[2] / grid[1]
    misses = []
    for weights in (pupil, teacher):
        with weights.bank(preconditioner, cpu, [grid[1]], corners=True) as bank, torch.no_grad():
            network = bank.network(pupil.ensemble.experts[1].index if weights is pupil else 0)
            jumps = pupil.model_of(pupil.phases[1]).build().corner(network, preconditioner)
            misses.append(float((end_of(jumps(begin, level), begin, left) - end).norm()))
    assert misses[0] < 0.9 * misses[1]
    assert main(["sample", str(tmp_path / "pupil"), "--out", str(tmp_path / "few"), "--count", "1", "--device", "cpu"]) == 0


def test_a_model_of_the_package_is_no_place() -> None:
    assert Teacher(run="pretrained:any").places == [] and Teacher(run="runs/any").places == ["runs/any"]


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


def test_a_teacher_that_is_guided_by_another_run_is_refused(teacher: Path, tmp_path: Path) -> None:
    guided = open_run(teacher)
    recipe = guided.recipe.model_copy(update={"guidance": Auto(weak=str(tmp_path / "other"), strength=2.0)})
    with pytest.raises(UserError, match="guided away from another run"):
        check(replace(guided, recipe=recipe))
    check(replace(guided, recipe=guided.recipe.model_copy(update={"guidance": Auto(weak="shared", strength=2.0)})))
