"""Values that no run could compute with are refused as such, before anything is built."""

from __future__ import annotations

from typing import Any

import pytest

from volgen.core.config import Config, apply_overrides, validate
from volgen.core.errors import UserError
from volgen.core.registry import config_class
from volgen.experts.plan import ExpertsConfig
from volgen.parallel.engine import EngineConfig
from volgen.recipe import Recipe
from volgen.training.optimiser import OptimiserConfig
from volgen.training.stopping import StoppingConfig

BASE: dict[str, Any] = {
    "name": "run", "data": {"store": "store", "shape": [16, 16, 16]}, "schedule": {"kind": "karras", "points": 4},
    "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "edm"}, "experts": {"count": 4},
}  # fmt: skip


def recipe(**overrides: str) -> Recipe:
    pairs = [(key.replace("__", "."), value) for key, value in overrides.items()]
    return validate(Recipe, apply_overrides(BASE, pairs), "test")


def test_the_base_and_the_outermost_noise_levels_are_fine() -> None:
    assert recipe().experts.count == 4
    for kind in ("karras", "log_snr"):
        grid = recipe(schedule__kind=kind, schedule__sigma_max="1e6", schedule__sigma_min="1e-6", schedule__points="4").schedule.grid()
        assert (grid[0], grid[-1]) == pytest.approx((1e6, 1e-6))


@pytest.mark.parametrize("betas", ["[0.9, 1.0]", "[1.5, 0.9]", "[-0.1, 0.9]", "[0.9, .nan]"])
def test_betas_outside_their_range_are_refused(betas: str) -> None:
    with pytest.raises(UserError, match=r"optimiser\.betas\.[01]: "):
        recipe(optimiser__betas=betas)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sigma_max", "1e300"), ("sigma_max", "1.1e6"), ("sigma_min", "1e-300"), ("rho", "1e-3"), ("rho", "1e300")],
)
def test_noise_levels_beyond_single_precision_are_refused(key: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"schedule\.karras\.{key}: "):
        recipe(**{f"schedule__{key}": value})


def test_more_noise_levels_than_anybody_needs_are_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.karras\.points: Input should be less than or equal to 10000 \(found 1000000000\)"):
        recipe(schedule__points="1000000000")


def test_noise_levels_that_do_not_fall_are_refused() -> None:
    with pytest.raises(UserError, match="must fall from one to the next"):
        recipe(schedule__sigma_min="1.0", schedule__sigma_max="1.000000000000001", schedule__points="40")
    with pytest.raises(UserError, match="sigma_max must be above sigma_min"):
        recipe(schedule__sigma_min="90")


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        (EngineConfig, {"offload": "optimiser", "zero_stage": 0}, "offload 'optimiser' needs zero_stage 1, 2 or 3"),
        (EngineConfig, {"offload": "optimiser_and_weights", "zero_stage": 2}, "needs zero_stage 3"),
        (StoppingConfig, {"min_steps": 10, "max_steps": 2}, r"min_steps \(10\) is above max_steps \(2\)"),
        (OptimiserConfig, {"matrix_learning_rate": 0.01}, "gradient_clip must be 0"),
        (ExpertsConfig, {"warm_start": "shared"}, "there is no shared network"),
        (ExpertsConfig, {"warm_start": "none", "shared_steps": 5}, "no expert would start from it"),
        (config_class("volgen.sampling.schedules", "karras"), {"sigma_min": 90.0}, "sigma_max must be above sigma_min"),
    ],
)
def test_a_section_refuses_what_it_can_judge_alone(section: type[Config], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(section, settings, "test")


@pytest.mark.parametrize(("overrides", "message"), [
    ({"assembly__kind": "autoregressive", "preconditioner__kind": "gaussian"}, "denoises whole volumes, but assembly"),
    ({"assembly__kind": "autoregressive", "assembly__thickness": "3"}, "assembly: thickness 3 does not divide the 16 slices along S"),
    ({"assembly__kind": "autoregressive", "assembly__coarse_levels": "5"}, "coarse_levels 5 needs edges that are multiples of 32"),
    ({"assembly__kind": "autoregressive"}, r"a piece .* is \[16, 16, 1\], but this network needs multiples of \[2, 2, 2\]"),
    ({"network__kind": "slice_unet2d", "network__haar_levels": "5"}, r"data.shape is .* needs multiples of \[32, 32, 1\]"),
])  # fmt: skip
def test_pieces_that_do_not_fit_together_are_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(**overrides)


def test_an_example_of_slabs_has_the_channels_that_the_network_is_built_for() -> None:
    made = recipe(assembly__kind="autoregressive", assembly__thickness="2", assembly__context="5")
    assert (made.piece, made.known, made.build().inputs) == ((16, 16, 2), 9, 10)
    assert (recipe().piece, recipe().known, recipe().build().inputs) == ((16, 16, 16), 0, 1)
