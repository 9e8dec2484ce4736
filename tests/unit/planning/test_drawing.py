"""What drawing a volume is said to take, beside what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from volgen.commands.plan.plan import plan
from volgen.core.config import validate
from volgen.core.protocols import Problem
from volgen.models.corners import FittedCorners
from volgen.planning.drawing import follow
from volgen.recipe import Recipe
from volgen.sampling.climb import FULL, Climbing
from volgen.sampling.descent import down, sample

SHAPE = (16, 16, 16)
LEVELS = [2, 2, 1, 0, 0]


def recipe(**more: Any) -> Recipe:
    content = {
        "name": "run", "data": {"store": "store", "shape": list(SHAPE)}, "schedule": {"kind": "log_snr", "points": 5, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "sampler": {"kind": "heun"},
        "preconditioner": {"kind": "gaussian", "levels": 2, "rank": 2, "rank_level": 2, "folds": 2}, "engine": {"precision": "fp32"},
        "experts": {"models": [{"points": 2}, {"points": 1, "level": 1}, {"points": 2, "level": 2}]}, **more,
    }  # fmt: skip
    return validate(Recipe, content, "test")


@pytest.mark.parametrize("full", [False, True])
def test_the_operations_of_a_volume_are_those_that_drawing_one_takes(full: bool) -> None:
    made = recipe()
    planned = follow(made, people=6, gpu=True, full=full)
    random = torch.Generator().manual_seed(0)
    volumes = [torch.rand(SHAPE, generator=random) - 0.5 for _ in range(6)]
    fitted = made.preconditioner.fit(lambda: iter(volumes), list("abcdef"), 0)
    experts = {}
    for phase in made.phases():
        method = made.of(phase).build()
        experts[phase.span] = (method.denoiser if full else method.corner)(method.released(phase), fitted)

    def bank(y: torch.Tensor, sigma: torch.Tensor, given: Any = None) -> torch.Tensor:
        return next(denoise for span, denoise in experts.items() if float(sigma) in span)(y, sigma)

    climb = FULL if full else Climbing([*LEVELS, 0], FittedCorners(fitted))
    problem = Problem(lambda z, sigma: FittedCorners(fitted).prior(climb.level(0), z, sigma))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sample(bank, made.sampler.build(), down(made.schedule.grid()), seed=0, indices=[0], shape=(1, *SHAPE), problem=problem, climb=climb)
    assert planned.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert [step.level for step in planned.steps] == ([0] * 5 if full else LEVELS)


def test_climbing_holds_less_where_a_level_is_coarse_and_as_much_at_full_resolution() -> None:
    made = recipe()
    climbing, whole = (follow(made, 6, gpu=True, full=full) for full in (False, True))
    assert climbing.peak <= whole.peak
    coarse = recipe(experts={"models": [{"points": 1, "level": 1}, {"points": 4, "level": 2}]})
    climbing, whole = (follow(coarse, 6, gpu=True, full=full) for full in (False, True))
    assert climbing.peak < 0.75 * whole.peak and climbing.flops <= whole.flops


def test_a_bank_of_one_level_has_nothing_to_climb() -> None:
    made = recipe(experts={"count": 2}, level=1)
    assert follow(made, 6, gpu=True) == follow(made, 6, gpu=True, full=True)


def test_pieces_of_a_volume_are_drawn_one_after_another() -> None:
    changes = {"assembly": {"kind": "autoregressive", "thickness": 4, "coarse_levels": 2}, "preconditioner": {"kind": "edm"}, "experts": {}}
    slabs, slab = recipe(**changes), recipe(**{**changes, "assembly": {**changes["assembly"], "thickness": 16}})
    assert follow(slabs, 6, gpu=True).flops == pytest.approx(follow(slab, 6, gpu=True).flops, rel=0.01)


def test_a_plan_says_what_each_level_and_a_volume_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = recipe(data={"store": "nowhere", "shape": list(SHAPE), "batch_size": 2})
    plan(made, Path("run.yaml"), (), nodes=1, gpus_per_node=1, gpu_memory=8.0, people=10, out=tmp_path / "plan")
    told = capsys.readouterr().out
    lines = [line for line in told.splitlines() if line.startswith("model ")]
    assert [line.split(":")[0].split(maxsplit=2)[2] for line in lines] == [
        "level 0, 16 x 16 x 16 at once", "level 1, 8 x 8 x 8 at once", "level 2, 4 x 4 x 4 at once",
    ]  # fmt: skip
    assert "which climbs over levels 2, 1, 0 (" in told and "with --full)" in told
    found = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert [network["level"] for network in found["chosen"]["networks"]] == [0, 1, 2]
    assert [step["level"] for step in found["sampling"]["steps"]] == LEVELS
    assert [step["level"] for step in found["sampling"]["full"]["steps"]] == [0] * 5
    flops = [network["flops_per_step"] for network in found["chosen"]["networks"]]
    assert flops[0] > 6 * flops[1] > 30 * flops[2]


def test_tiles_are_counted_with_what_is_around_them() -> None:
    def flops(view: dict[str, Any]) -> int:
        network = {"kind": "wavelet_unet3d", "channels": [8], "norm": "pixel"}
        data = {"store": "store", "shape": [64, 16, 16]}  # longer than a tile with what the network sees around it
        return follow(recipe(data=data, network=network, view=view, preconditioner={"kind": "edm"}, experts={}), 6, gpu=True).flops

    whole, tiles = (flops({"kind": "patches", "edge": 8, **tile}) for tile in ({}, {"tile": [8, 16, 16]}))
    assert tiles > 1.5 * whole


def test_a_volume_takes_the_steps_that_its_method_takes() -> None:
    """A generator of one step is asked once, and a student once for each expert, whatever noise levels they were trained at."""
    small = {"kind": "gan", "latent": 8, "width": 8, "critic_width": 4, "norm_groups": 2}
    generator = recipe(method=small, preconditioner={"kind": "edm"}, experts={})
    student = recipe(method={"kind": "jump"}, objective={"kind": "consistency"}, sampler={"kind": "euler"}, experts={"count": 2})
    grid = generator.schedule.grid()
    assert [step.sigma for step in follow(generator, 6, gpu=True).steps] == [grid[0]]
    assert [step.sigma for step in follow(student, 6, gpu=True).steps] == student.build().visits(grid, 2) and len(grid) == 5
