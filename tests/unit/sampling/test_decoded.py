"""Guidances behind a decoder: its derivative, and that nothing is lost behind an affine one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Covariance, Guidance, Measurement, Operator, Problem
from volgen.core.registry import config_class, kinds
from volgen.sampling import descent
from volgen.sampling.decoded import Behind, Curved, Tangent
from volgen.sampling.samplers.ddim import Config as DDIM
from volgen.sampling.samplers.renoise import Config as Renoise

LATENT, VOLUME = (2, 2, 2), (2, 3, 4)
DRAWN = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAWN, dtype=torch.float64)


ROWS, WIDEN, BESIDE, TRUTH = drawn(5, 24), drawn(24, 8) / 3.0, drawn(24), drawn(1, 1, *LATENT)
Z, CHANGE = drawn(1, 1, *LATENT), drawn(1, 1, *LATENT)
GUIDANCES = "volgen.sampling.guidances"
LINEAR = ("song", "dds", "energy", "projection")
"""Guidances that move samples."""
SOLVED: dict[str, dict[str, Any]] = {"iterations": 200, "tolerance": 1e-10}  # type: ignore[dict-item]
FITS: dict[str, dict[str, Any]] = {
    "resample": SOLVED, "gauss": SOLVED, "ddnm": SOLVED, "diffpir": SOLVED, "daps": SOLVED, "pigdm": SOLVED, "dps": {"strength": 30.0},
}  # fmt: skip


class Dense(Operator):
    """A matrix."""

    def __init__(self, matrix: Tensor, shape: tuple[int, int, int]) -> None:
        self.matrix, self.shape = matrix, shape

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        return x_BCXYZ.flatten(1) @ self.matrix.T

    def adjoint(self, data: Tensor) -> Tensor:
        return (data @ self.matrix).reshape(-1, 1, *self.shape)


class Spread(Covariance):
    """Of N(0, diag(v))."""

    variances = torch.linspace(0.1, 2.0, 8, dtype=torch.float64).view(1, 1, *LATENT)
    directions = torch.zeros(0, 1, *LATENT, dtype=torch.float64)

    def at(self, sigma: float) -> Tensor:
        return self.variances if sigma == float("inf") else self.variances * sigma**2 / (self.variances + sigma**2)

    def times(self, x_BCXYZ: Tensor, sigma: float) -> Tensor:
        return self.at(sigma) * x_BCXYZ

    def drawn(self, first_BCXYZ: Tensor, second_BCXYZ: Tensor, sigma: float) -> Tensor:
        return self.at(sigma).sqrt() * first_BCXYZ

    def strengths(self, sigma: float) -> tuple[Tensor, float]:
        return torch.zeros(0, dtype=torch.float64), float(self.at(sigma).mean())


def expected(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    return y * Spread.variances / (Spread.variances + sigma.view(-1, 1, 1, 1, 1) ** 2)


def affine(z: Tensor) -> Tensor:
    return (z.flatten(1) @ WIDEN.T + BESIDE).reshape(-1, 1, *VOLUME)


def curved(z: Tensor) -> Tensor:
    return torch.tanh((z + 0.3 * z.roll(1, -1) ** 2).flatten(1) @ WIDEN.T).reshape(-1, 1, *VOLUME)


def guidance(kind: str, **options: Any) -> Guidance:
    built: Guidance = validate(config_class(GUIDANCES, kind), {"kind": kind, **options}, "test").build()  # type: ignore[attr-defined]
    return built


def noise(shape: tuple[int, ...], seed: int, *key: int | str) -> Tensor:
    return descent.white(shape, seed, *key).double()  # type: ignore[arg-type]


def sampled(guide: Guidance, measured: Measurement) -> Tensor:
    prior = Problem(lambda z, sigma: z * (Spread.variances + sigma**2).sqrt(), measured, expected, Spread())
    sampler = (Renoise() if guide.renoises else DDIM(eta=1.0)).build()
    drawn = descent.sample(
        expected, sampler, descent.down([5.0, 2.0, 0.7, 0.2]), seed=3, indices=range(2), shape=(1, *LATENT), problem=prior,
        guidance=guide, noise=noise,
    )  # fmt: skip
    return torch.stack(drawn)


def test_a_tangent_is_the_derivative_and_its_adjoint_is_its_adjoint() -> None:
    instrument = Dense(ROWS, VOLUME)
    tangent, step = Tangent(instrument, curved, Z), 1e-6
    secant = (instrument.apply(curved(Z + step * CHANGE)) - instrument.apply(curved(Z - step * CHANGE))) / (2 * step)
    torch.testing.assert_close(tangent.apply(CHANGE), secant, atol=1e-7, rtol=1e-6)
    data = drawn(1, 5)
    torch.testing.assert_close((tangent.apply(CHANGE) * data).sum(), (CHANGE * tangent.adjoint(data)).sum())
    torch.testing.assert_close(tangent.x_BCXYZ, curved(Z))
    bent = Curved(instrument, curved)
    torch.testing.assert_close(bent.apply(Z), instrument.apply(curved(Z)))
    torch.testing.assert_close(bent.adjoint(data), tangent.adjoint(data))


@pytest.mark.parametrize("kind", FITS)
def test_behind_an_affine_decoder_a_guidance_is_that_of_one_linear_instrument(kind: str) -> None:
    """A (M z + b) of latents is the instrument A M with the data y - A b: sample by sample the same, start and all."""
    data, noisy = Dense(ROWS, VOLUME).apply(affine(TRUTH)), 0.05
    whole = sampled(guidance(kind, **FITS[kind]), Measurement(Dense(ROWS @ WIDEN, LATENT), data - BESIDE @ ROWS.T, noisy))
    behind = sampled(Behind(guidance(kind, **FITS[kind]), affine), Measurement(Dense(ROWS, VOLUME), data, noisy))
    torch.testing.assert_close(behind, whole, atol=1e-5, rtol=1e-5)
    assert float((whole - sampled(guidance("none"), Measurement(Dense(ROWS, VOLUME), data))).abs().max()) > 0.05, "the data do something"


def test_each_guidance_that_looks_at_data_says_whether_it_goes_behind_a_decoder() -> None:
    problem = Problem(measurement=Measurement(Dense(ROWS, VOLUME), drawn(1, 5)), expected=expected, covariance=Spread())
    for kind in LINEAR:
        with pytest.raises(UserError, match="the samples of this run are latents"):
            Behind(guidance(kind), affine).check(problem)
    for kind in FITS:
        Behind(guidance(kind), affine).check(problem)
    assert {*FITS, *LINEAR, "none", "cfg", "auto"} == set(kinds(GUIDANCES))


def test_what_does_not_look_at_data_stays_as_it_is() -> None:
    plain, behind = (
        sampled(guide, Measurement(Dense(ROWS, VOLUME), drawn(1, 5))) for guide in (guidance("none"), Behind(guidance("none"), affine))
    )
    torch.testing.assert_close(plain, behind)
