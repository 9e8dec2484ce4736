"""Consistency models without a teacher: a recipe, a training, a descent; and what does not go together is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from volgen.commands.sample.sample import sample
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.planning.step import trace
from volgen.recipe import Recipe
from volgen.runs.choices import visited
from volgen.runs.trained import open_run
from volgen.sampling.samplers.euler import Config as Euler

POINTS = 6


def recipe(store: Path, runs: Path, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "run", "runs": str(runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2, "workers": 1},
        "method": {"kind": "jump"}, "objective": {"kind": "consistency", "halve_every": 2}, "sampler": {"kind": "euler"},
        "schedule": {"kind": "log_snr", "points": POINTS, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4, "dropout": 0.1},
        "preconditioner": {"kind": "gaussian", "rank": 2, "folds": 2},
        "experts": {"count": 2, "points": [2, 4]},
        "optimiser": {"learning_rate": 0.01, "warmup_steps": 1},
        "stopping": {"max_steps": 6, "min_steps": 6, "validate_every": 3, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    return validate(Recipe, {**content, **sections}, "test")


def test_a_consistency_model_is_trained_from_scratch_and_drawn_from(blob_store: Path, tmp_path: Path) -> None:
    made = recipe(blob_store, tmp_path)
    grid, method = made.schedule.grid(), made.build()
    assert method.visits(grid, None) == [grid[0], grid[4]] and method.end(grid[1]) == grid[4] and method.end(grid[5]) == 0.0  # type: ignore[attr-defined]
    run = train(made)
    trained = open_run(run)
    assert visited(trained, None) == visited(trained, 2) == [grid[0], grid[4]]
    (image,) = sample(run, tmp_path / "out", count=1, seed=3).rglob("*.nii.gz")
    found = np.asarray(nib.load(image).dataobj)
    preconditioner = trained.preconditioner(torch.device("cpu"))
    with trained.bank(preconditioner, torch.device("cpu"), [grid[0], grid[4]]) as bank:
        x = preconditioner.prior(torch.randn(1, 1, 16, 16, 16), grid[0])
        assert torch.isfinite(bank(x, torch.tensor([grid[0]]))).all()
        bank(x, torch.tensor([grid[4]]))
        assert bank.loads == [1, 0]
    assert found.shape == (16, 16, 16) and found.std() > 0
    with pytest.raises(UserError, match="jump from one to the next in 2 steps"):
        sample(run, tmp_path / "other", count=1, steps=4)
    (edited,) = sample(run, tmp_path / "edited", count=1, sketch=image, sketch_sigma=grid[3]).rglob("sub-*.json")
    assert json.loads(edited.read_text())["SigmaGrid"] == [grid[4]], "the last jump alone"
    for sampler in ("heun", "ddpm", "dpmpp_2m", "renoise"):
        with pytest.raises(UserError, match="takes no straight steps"):
            sample(run, tmp_path / "other", count=1, sampler=sampler)


def test_a_descent_may_begin_with_any_jump_and_leaves_none_out(tmp_path: Path) -> None:
    made = recipe(tmp_path, tmp_path)
    grid, method, euler = made.schedule.grid(), made.build(), Euler().build()
    assert [method.visits(grid, None, below) for below in (99.0, grid[0], grid[3])] == [[grid[0], grid[4]], [grid[0], grid[4]], [grid[4]]]
    method.fits(euler, [grid[4]])
    for strange in ([grid[0]], [grid[0], grid[3]], [grid[0], grid[2], grid[4]]):
        with pytest.raises(UserError, match=f"leave {len(strange)} noise levels"):
            method.fits(euler, strange)
    with pytest.raises(UserError, match="where its last jump begins"):
        method.visits(grid, None, grid[5])
    clean = recipe(tmp_path, tmp_path, method={"kind": "jump", "to": "clean"}, experts={"count": 1}, sampler={"kind": "renoise"}).build()
    assert [clean.visits(grid, steps, grid[2]) for steps in (None, 1, 2)] == [[grid[2]], [grid[2]], [grid[2], grid[4]]]


def test_a_consistency_function_has_as_many_steps_as_are_asked_for(blob_store: Path, tmp_path: Path) -> None:
    made = recipe(blob_store, tmp_path, method={"kind": "jump", "to": "clean"}, experts={"count": 1}, sampler={"kind": "renoise"})
    grid = made.schedule.grid()
    run = train(made)
    trained = open_run(run)
    assert [visited(trained, steps) for steps in (None, 1, 2, 6)] == [grid[:1], grid[:1], [grid[0], grid[3]], grid]
    for steps in (None, 2):
        assert list(sample(run, tmp_path / f"out{steps}", count=1, steps=steps).rglob("*.nii.gz"))
    with pytest.raises(UserError, match="goes on from an expected volume"):
        sample(run, tmp_path / "other", count=1, steps=2, sampler="heun")
    with pytest.raises(UserError, match="0 steps cannot be chosen"):
        sample(run, tmp_path / "other", count=1, steps=0)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"objective": {"kind": "denoising"}}, "objective.kind 'denoising' trains denoisers"),
        ({"method": {"kind": "diffusion"}}, "objective.kind 'consistency' trains networks that jump"),
        ({"preconditioner": {"kind": "x0"}}, "'x0' is the denoiser of no distribution"),
        ({"preconditioner": {"kind": "edm"}, "assembly": {"kind": "autoregressive", "thickness": 2}}, "is of whole volumes so far"),
        ({"method": {"kind": "jump", "to": "clean"}}, "experts.count is 2"),
        ({"privacy": {"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-5}}, "'consistency' is not tested with gradients of single patients"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        recipe(tmp_path, tmp_path, **sections)


def test_what_is_not_mentioned_is_a_denoiser_as_before(tmp_path: Path) -> None:
    content = recipe(tmp_path, tmp_path).model_dump(mode="json", exclude={"method", "objective", "sampler"})
    plain = validate(Recipe, content, "test")
    assert (plain.method.kind, plain.objective.kind) == ("diffusion", "denoising")
    assert not plain.stated("method") and not plain.stated("objective")
    assert plain.build().visits(plain.schedule.grid(), None) == plain.schedule.grid()


PATCHES = {"network": {"kind": "wavelet_unet3d", "channels": [8], "norm": "pixel"}, "view": {"kind": "patches", "edge": 8, "per_scan": 2}}


@pytest.mark.parametrize("view", [{}, PATCHES])
@pytest.mark.parametrize("objective", [{"kind": "consistency"}, {"kind": "distilled", "levels": [10.0, 0.1], "consistency_after": 1}])
def test_a_training_step_of_jumps_can_be_planned(objective: dict[str, Any], view: dict[str, Any], tmp_path: Path) -> None:
    made = recipe(tmp_path, tmp_path, objective=objective, experts={"count": 1}, **view)
    plain = recipe(tmp_path, tmp_path, objective={"kind": "denoising"}, method={"kind": "diffusion"}, experts={"count": 1}, **view)
    jumps, usual = (trace(one, 2, 6, gpu=False) for one in (made, plain))
    assert usual.flops <= jumps.flops < 1.6 * usual.flops, "a target without a gradient at most"
