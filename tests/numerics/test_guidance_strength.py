"""Guidance moves means and narrows spreads as it does for Gaussian classes, in closed form, and says what is left of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Problem
from volgen.sampling.descent import down, sample
from volgen.sampling.guidances import auto, cfg
from volgen.sampling.samplers import heun

SHAPE = (1, 10, 10, 10)
GRID = [80.0 * (0.01 / 80.0) ** (step / 59) for step in range(60)]
L, MEANS = 0.25, {0.0: 0.3, 1.0: -0.5}
"""Variance and means of the classes."""


def gaussian(mean: float, variance: float, y: Tensor, sigma: Tensor) -> Tensor:
    return mean + variance / (variance + sigma.view(-1, 1, 1, 1, 1) ** 2) * (y - mean)


def classes(untold_variance: float) -> Any:
    """A network of classes; everybody is N(0.1, untold_variance)."""

    def denoise(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
        told = given.values.get("group")
        if told is None or bool(told.isnan()):
            return gaussian(0.1, untold_variance, y, sigma)
        return gaussian(MEANS[float(told)], L, y, sigma)

    return denoise


def drawn(guide: Any, denoise: Any, group: float | None = 1.0, problem: Problem | None = None, count: int = 3) -> Tensor:
    given = [NOTHING if group is None else Given(values={"group": torch.tensor([group])})] * count
    volumes = sample(
        denoise, heun.Config().build(), down(GRID), seed=0, indices=range(count), shape=SHAPE, guidance=guide, given=given,
        problem=problem or Problem(),
    )  # fmt: skip
    return torch.stack(volumes)


def left(w: float, told: float, untold: float) -> float:
    """Ratio of standard deviations, guided to not, between these noise levels, of variances of those who are told and not."""

    def of(s: float) -> float:
        return ((told + s**2) ** w * (untold + s**2) ** (1 - w) / (told + s**2)) ** 0.5

    return of(GRID[-1]) / of(GRID[0])


@pytest.mark.parametrize("w", [1.5, 2.0, 4.0])
def test_classes_of_one_spread_keep_it_and_means_go_further(w: float) -> None:
    guide = cfg.Config(strength=w).build()
    found = drawn(guide, classes(L))
    assert float(found.mean()) == pytest.approx(0.1 + w * (MEANS[1.0] - 0.1), abs=0.03 * w)
    assert float(found.std()) == pytest.approx(L**0.5, rel=0.03)
    assert guide.noted().get("spread", 1.0) == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("w", [1.5, 3.0])
def test_where_a_class_is_more_alike_than_all_are_guidance_narrows_it_and_says_so(w: float) -> None:
    guide = cfg.Config(strength=w).build()
    found, plain = drawn(guide, classes(0.5)), drawn(cfg.Config(strength=1.0).build(), classes(0.5))
    expected = left(w, L, 0.5)
    assert expected < 0.9
    assert float(found.std() / plain.std()) == pytest.approx(expected, rel=0.03)
    assert guide.noted()["spread"] == pytest.approx(expected, rel=0.03)


def test_an_interval_is_guided_and_nothing_else() -> None:
    asked: list[float] = []
    denoise = classes(0.5)

    def counted(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
        if not given.values:
            asked.append(float(sigma))
        return denoise(y, sigma, given)

    guide = cfg.Config(strength=3.0, sigma_low=0.2, sigma_high=2.0).build()
    plain = drawn(cfg.Config(strength=1.0).build(), counted, count=2)
    assert not asked
    found = drawn(guide, counted, count=2)
    assert asked and all(0.2 <= sigma <= 2.0 for sigma in asked)
    inside = left_between(3.0, 0.2, 2.0)
    assert float(found.std() / plain.std()) == pytest.approx(inside, rel=0.05)
    assert guide.noted()["spread"] == pytest.approx(inside, rel=0.05)


def left_between(w: float, low: float, high: float) -> float:
    steps = [low * (high / low) ** (step / 400) for step in range(401)]
    rate = [(w - 1) * (L / (L + s**2) - 0.5 / (0.5 + s**2)) for s in steps]
    return math.exp(sum((f + g) / 2 * math.log(b / a) for (a, f), (b, g) in itertools.pairwise(zip(steps, rate, strict=True))))


def test_where_nothing_is_asked_for_nothing_is_guided() -> None:
    guide = cfg.Config(strength=4.0).build()
    assert torch.equal(drawn(guide, classes(0.5), None), drawn(cfg.Config(strength=1.0).build(), classes(0.5), None))
    silent = [Given(values={"group": torch.tensor([math.nan])})]
    told = sample(classes(0.5), heun.Config().build(), down(GRID), seed=0, indices=[0], shape=SHAPE, guidance=guide, given=silent)
    assert torch.equal(told[0], drawn(guide, classes(0.5), None, count=1)[0]) and guide.noted() == {}


def test_a_weak_network_is_moved_away_from_too() -> None:
    def worse(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
        return gaussian(MEANS[float(given.values["group"])], 0.5, y, sigma)

    guide = auto.Config(strength=2.0, weak="shared").build()
    assert guide.weak == "shared" and auto.Config().build().weak == ""
    found = drawn(guide, classes(0.5), problem=Problem(weak=worse))
    assert float(found.mean()) == pytest.approx(MEANS[1.0], abs=0.03)
    assert float(found.std()) == pytest.approx(L**0.5 * left(2.0, L, 0.5), rel=0.03)
    assert guide.noted()["spread"] == pytest.approx(left(2.0, L, 0.5), rel=0.03)
    with pytest.raises(UserError, match="nothing of the weak denoiser 'shared'"):
        guide.check(Problem(expected=lambda y, sigma: y))


def test_only_volumes_that_were_asked_for_the_same_tell_of_the_spread() -> None:
    guide = cfg.Config(strength=3.0).build()
    given = [Given(values={"group": torch.tensor([group])}) for group in (0.0, 1.0)]
    sample(classes(0.5), heun.Config().build(), down(GRID), seed=0, indices=[0, 1], shape=SHAPE, guidance=guide, given=given)
    assert guide.noted() == {}
