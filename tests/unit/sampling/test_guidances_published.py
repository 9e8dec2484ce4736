"""What the oracle of a Gaussian does not see of published guidances: coordinates, switches, and the paths of ``energy``."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Measurement, Operator, Problem, Step
from volgen.sampling.guidances import dps, energy, song
from volgen.sampling.samplers import ddpm, euler

SHAPE = (2, 3, 4)
DRAWN = torch.Generator().manual_seed(0)
X, Z, TRUTH = (torch.randn(1, 1, *SHAPE, generator=DRAWN, dtype=torch.float64) for _ in range(3))
ROWS = torch.randn(6, 24, generator=DRAWN, dtype=torch.float64)


def denoise(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    return torch.tanh(y + 0.3 * y.roll(1, -1)) / (1 + sigma.view(-1, 1, 1, 1, 1) ** 2)


class Dense(Operator):
    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        return x_BCXYZ.flatten(1) @ self.matrix.T

    def adjoint(self, data: Tensor) -> Tensor:
        return (data @ self.matrix).reshape(-1, 1, *SHAPE)


def problem(matrix: Tensor = ROWS) -> Problem:
    operator = Dense(matrix)
    return Problem(measurement=Measurement(operator, operator.apply(TRUTH), 0.1))


def test_dps_is_the_published_step_in_the_coordinate_of_the_paper() -> None:
    sigma, after, strength, asked = 1.3, 0.6, 2.0, problem()
    assert asked.measurement is not None
    alpha, alpha_next = 1 / (1 + sigma**2), 1 / (1 + after**2)
    x = (X * math.sqrt(alpha)).requires_grad_()
    x0 = denoise(x / math.sqrt(alpha), torch.tensor([sigma], dtype=torch.float64))
    (slope,) = torch.autograd.grad((asked.measurement.data - asked.measurement.operator.apply(x0)).norm(), x)
    # Ho et al. 2020, equation 7, between two levels: beta is 1 - alpha / alpha_next.
    beta, x0 = 1 - alpha / alpha_next, x0.detach()
    mean = math.sqrt(alpha_next) * beta / (1 - alpha) * x0 + math.sqrt(1 - beta) * (1 - alpha_next) / (1 - alpha) * x.detach()
    expected = mean + math.sqrt((1 - alpha_next) / (1 - alpha) * beta) * Z - strength * math.sqrt(X.numel() / dps.NUMBERS) * slope
    guide = dps.Config(strength=strength).build()
    with torch.enable_grad():
        found, _ = guide.solver(ddpm.Config().build(), asked, lambda k: Z).step(denoise, X, Step(sigma, after, lambda: Z), None)
    torch.testing.assert_close(found * math.sqrt(alpha_next), expected)


def test_the_published_code_of_song_goes_half_of_the_way_to_a_line_without_its_mirror_image() -> None:
    # A line of k-space of a real signal of 24 numbers: its real and its imaginary part, each with half of the norm of a complex row.
    at = torch.arange(24, dtype=torch.float64) * (2 * math.pi * 5 / 24)
    line = torch.stack([at.cos(), -at.sin()]) / math.sqrt(24)
    still = Step(1.0, 0.0, lambda: Z)

    def left(mirror: bool, end: float) -> float:
        asked = problem(line)
        measured = asked.measurement
        assert measured is not None
        guide = song.Config(strength=0.0, end=end, mirror=mirror, tolerance=1e-9).build()
        x, _ = guide.solver(euler.Config().build(), asked, lambda k: Z).step(denoise, X, still, None)
        return float((measured.data - measured.operator.apply(x)).norm())

    assert left(True, 1.0) < 1e-8 * left(True, 0.0)
    assert left(False, 1.0) == pytest.approx(0.5 * left(False, 0.0))


def gaussian(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    """Of a long and narrow N(0, diag(4, 0.01, 1, 1 ...))."""
    variances = torch.ones(24, dtype=torch.float64)
    variances[0], variances[1] = 4.0, 0.01
    return y * (variances / (variances + float(sigma[0]) ** 2)).reshape(1, 1, *SHAPE)


def moved(path: str, told: object = gaussian, **options: object) -> tuple[Tensor, energy.Energy, Measurement]:
    """Where a sample goes before a step: what the denoiser is asked about last."""
    row = torch.zeros(1, 24, dtype=torch.float64)
    row[0, :2] = 1.0  # x_0 + x_1 is known
    asked = Problem(measurement=Measurement(Dense(row), torch.tensor([[2.0]], dtype=torch.float64)))
    guide = energy.Config.model_validate({"path": path, "tolerance": 1e-9, **options}).build()
    seen: list[Tensor] = []

    def spy(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
        seen.append(y)
        return told(y, sigma)  # type: ignore[operator, no-any-return]

    start = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
    start[0, 0, 0, 0, 0], start[0, 0, 0, 0, 1] = 0.1, 0.1
    guide.solver(euler.Config().build(), asked, lambda k: torch.zeros_like(start)).step(spy, start, Step(0.1, 0.05, lambda: Z), None)
    assert asked.measurement is not None
    return seen[-1], guide, asked.measurement


@pytest.mark.parametrize("path", ["score", "grid"])
def test_every_path_ends_where_the_data_are(path: str) -> None:
    x, _, measured = moved(path)
    assert float((measured.data - measured.operator.apply(x)).norm()) < 1e-8


def test_a_score_that_points_nowhere_near_the_data_falls_back_to_the_nearest_point() -> None:
    x, guide, _ = moved("score")  # a Gaussian's score points to its middle, and the data are beyond
    torch.testing.assert_close(x.flatten()[:2], torch.tensor([1.0, 1.0], dtype=torch.float64))
    assert guide.noted() == {"fell_back": 1.0, "finished": 0.0}
    x, guide, _ = moved("score", lambda y, sigma: y + 3.0, moves=20)  # and this one to the data
    assert guide.noted()["fell_back"] == 0.0


def test_a_path_over_a_grid_rises_less_than_the_shortest_one() -> None:
    def height(x: Tensor) -> float:
        return float(x.flatten()[0] ** 2 / 4.01 + x.flatten()[1] ** 2 / 0.02) / 2

    x, guide, _ = moved("grid", points=9)
    nearest, _, _ = moved("score")
    assert height(x) < 0.7 * height(nearest) and guide.noted() == {"fell_back": 0.0, "finished": 0.0}
