"""Borders between levels that follow from the scans of a cohort."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from volgen import recipe as recipes
from volgen.commands.train import size
from volgen.commands.train.train import train
from volgen.core.config import dump_yaml, validate
from volgen.core.errors import UserError
from volgen.core.protocols import Scan
from volgen.data.scan import VolumeScan
from volgen.experts.borders import choose
from volgen.models.bands import variances
from volgen.models.haar import unpyramid
from volgen.recipe import Recipe, load

SHAPE = (16, 16, 8)
GRID = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]


def scans(count: int, sds: tuple[float, ...]) -> Iterator[Scan]:
    """Volumes whose bands, the finest first, have these standard deviations in one half of the field; the other is air."""
    random = torch.Generator().manual_seed(3)
    for _ in range(count):
        coefficients = torch.zeros(1, 1, *SHAPE)
        for level, sd in enumerate(sds):
            edges = [slice(0, size >> level) for size in SHAPE]
            inner = [slice(0, size >> (level + 1)) for size in SHAPE]
            band = torch.randn([size >> level for size in SHAPE], generator=random) * sd
            band[tuple(inner)] = coefficients[(0, 0, *inner)]
            coefficients[(0, 0, *edges)] = band
        volume = unpyramid(coefficients, len(sds))[0, 0]
        volume[8:] = -1.0
        yield VolumeScan(SHAPE, lambda made=volume: made)  # type: ignore[misc]


def test_variances_of_bands_are_those_of_the_coefficients_at_full_resolution_in_the_heads() -> None:
    found = variances(scans(60, (0.1, 0.4)), 2, -0.5)
    assert [len(each) for each in found] == [7 * math.prod(SHAPE) // 8 // 2, 7 * math.prod(SHAPE) // 64 // 2]
    np.testing.assert_allclose([float(each.mean()) for each in found], [0.01, 0.16], rtol=0.05)
    np.testing.assert_allclose(found[0].std() / found[0].mean(), math.sqrt(2 / 59), rtol=0.1)


def test_a_border_is_the_lowest_point_at_which_finer_bands_are_below_the_bound() -> None:
    bands = [np.full(50, 0.3**2, np.float32), np.full(50, 0.6**2, np.float32)]
    points, borders = choose([0, 1, 2], GRID, bands, 0.5)  # 0.6 -> 1.0 and 1.2 -> 2.0
    assert points == [3, 1, 3]
    assert [(border.level, border.sigma) for border in borders] == [(1, 1.0), (2, 2.0)]
    assert borders[0].deviation == pytest.approx(0.3)
    assert borders[0].decibels == pytest.approx(20 * math.log10(0.3)) and borders[1].decibels == pytest.approx(20 * math.log10(0.3))
    assert borders[0].told == pytest.approx(0.09 / 1.09)
    # On a point itself the bound holds; a level that is left out takes its bands along.
    assert choose([0, 2], GRID, [np.full(50, 0.25, np.float32)] * 2, 0.5)[0] == [3, 4]
    assert "level 1 from sigma 1 up" in borders[0].text


@pytest.mark.parametrize(("ratio", "message"), [
    (0.01, "level 1 would begin at sigma 30, above the schedule's highest, 10"),
    (9.0, "level 0 would own none of the schedule's points: level 1 begins at sigma 0.03333"),
    (0.8, "level 1 would own none"),
])  # fmt: skip
def test_a_level_without_points_is_refused(ratio: float, message: str) -> None:
    bands = [np.full(5, 0.3**2, np.float32), np.full(5, 0.31**2, np.float32)]
    with pytest.raises(ValueError, match=message):
        choose([0, 1, 2], GRID, bands, ratio)


def content(store: Path, runs: Path, **more: Any) -> dict[str, Any]:
    experts = {"models": [{}, {"points": "auto", "level": 1}], **more.pop("experts", {})}
    return {
        "name": "run", "runs": str(runs), "data": {"store": str(store), "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 8, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [4], "norm_groups": 2},
        "preconditioner": {"kind": "gaussian", "rank": 2, "levels": 1, "folds": 3},
        "experts": experts, "stopping": {"max_steps": 1, "min_steps": 1, "validation_volumes": 1, "validation_draws": 1}, **more,
    }  # fmt: skip


def test_points_become_numbers_where_a_recipe_is_loaded(blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = load(content(blob_store, tmp_path))
    assert sum(made.experts.points) == 8 and made.experts.count == 2
    (border,) = made.experts.borders
    grid = sorted(made.schedule.grid())
    assert border.sigma == grid[made.experts.points[0]]
    assert border.deviation <= 0.33 * border.sigma and border.deviation > 0.33 * grid[made.experts.points[0] - 1]
    train(made, dry_run=True)
    assert f"border (chosen)      level 1 from sigma {border.sigma:.4g} up" in capsys.readouterr().out
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_yaml(made))
    assert load(path, own=True) == made and "border" in size.report(made)
    assert load(content(blob_store, tmp_path, experts={"border_ratio": 0.05})).experts.points[0] > made.experts.points[0]


def test_a_run_keeps_the_borders_that_it_began_with(blob_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load(content(blob_store, tmp_path))
    train(made)
    monkeypatch.setattr(recipes, "choose", lambda *_: pytest.fail("borders were chosen again"))
    again = load(content(blob_store, tmp_path))
    assert again.experts == made.experts and train(again) == made.directory


def test_a_box_and_borders_are_found_together(blob_store: Path, tmp_path: Path) -> None:
    boxed = content(blob_store, tmp_path)
    boxed["data"]["box"] = "foreground"
    made = load(boxed)
    assert made.data.box is not None and sum(made.experts.points) == 8


@pytest.mark.parametrize(("change", "message"), [
    ({"data": {"store": "nowhere.zarr", "shape": [16, 16, 16]}}, r"experts.models: points are 'auto', and cannot be taken from the store"),
    ({"experts": {"models": [{}, {"points": 4, "level": 1}]}}, "points of some are stated, and of some 'auto'"),
    ({"experts": {"models": [{"level": 1}, {}]}}, r"are of levels \[1, 0\], and their points are to be chosen"),
    ({"experts": {"models": [{}, {}]}}, r"are of levels \[0, 0\], and their points are to be chosen"),
    ({"experts": {"models": [{}, {"level": 1, "points": "some"}]}}, "points"),
    ({"experts": {"border_ratio": 1e-3}}, "level 1 would begin at sigma .* Leave the level out, change the schedule, or state the points"),
    ({"schedule": {"kind": "nonsense"}}, "schedule.kind is 'nonsense'"),
    ({"preconditioner": {"kind": "edm"}, "optimiser": {"gradient_clip": 0.0}, "privacy": {"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-3}},
     "points are 'auto', which would be a function of people whom privacy.kind 'dp_sgd' protects"),
])  # fmt: skip
def test_what_cannot_be_chosen_is_refused(blob_store: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load({**content(blob_store, tmp_path), **change} if "experts" not in change else content(blob_store, tmp_path, **change))


def test_points_are_not_chosen_behind_the_back_of_a_recipe_that_is_not_loaded(blob_store: Path, tmp_path: Path) -> None:
    stated = content(blob_store, tmp_path)
    stated["data"]["shape"] = [16, 16, 16]
    with pytest.raises(UserError, match="points of some are 'auto'"):
        validate(Recipe, stated, "test")


def test_an_expert_that_sees_finer_voxels_than_one_of_lower_noise_is_refused_but_a_run_of_an_older_version_opens(tmp_path: Path) -> None:
    odd = content(Path("nowhere.zarr"), tmp_path, experts={"models": [{"points": 4, "level": 1}, {"points": 4}]})
    odd["data"]["shape"] = [16, 16, 16]
    with pytest.raises(UserError, match=r"are of levels \[1, 0\], lowest noise first"):
        load(odd)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(odd))
    assert load(path, own=True).variants[0].level == 1
