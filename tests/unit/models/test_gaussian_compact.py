"""A Gaussian in few bytes denoises people whom it has not seen as well as the one that was fitted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from volgen.models.preconditioners._gaussian_compact import FLOOR
from volgen.models.preconditioners.gaussian import Config

GRID = (0.02, 0.05, 0.1, 0.25, 0.6, 1.5, 4.0, 12.0, 40.0)


def heads(count: int, seed: int, edge: int = 24) -> list[Tensor]:
    """Ellipsoids with texture, in air."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*[torch.arange(edge) - (edge - 1) / 2] * 3, indexing="ij")
    volumes = []
    for _ in range(count):
        radii = edge * (0.25 + 0.12 * torch.rand(3, generator=generator))
        inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, radii, strict=True)) < 1
        texture = 0.3 + 0.4 * torch.rand(edge, edge, edge, generator=generator) * torch.cos(axes[0] * torch.rand(1, generator=generator))
        volumes.append(torch.where(inside, texture, -1.0))
    return volumes


@pytest.fixture(scope="module", name="config")
def _config() -> Config:
    return Config(levels=3, rank=6, rank_level=2, folds=4)


def test_unseen_people_are_denoised_as_well(config: Config) -> None:
    fitted = config.fit(lambda: heads(24, 0), [f"{n}" for n in range(24)], 0)
    state = fitted.compact()
    small = config.restore(state)
    size, whole = (sum(tensor.nbytes for tensor in tensors.values()) for tensors in (state, fitted.state()))
    assert size < 0.3 * whole
    unseen = torch.stack(heads(8, 1))[:, None]
    noise = torch.randn(unseen.shape, generator=torch.Generator().manual_seed(2))
    for sigma in GRID:
        sigma_B = torch.full((len(unseen),), sigma)
        y = unseen + sigma * noise
        whole_x, small_x = (each.expected(y, sigma_B) for each in (fitted, small))
        before, after = (float((x - unseen).square().mean()) for x in (whole_x, small_x))
        assert abs(after / before - 1) < 0.01, (sigma, before, after)
        # Not by chance: the estimates themselves are apart by less than a tenth of the error.
        assert float((whole_x - small_x).square().mean()) < 0.01 * before, sigma
        scales = [each.denoise(lambda inputs, _: torch.ones_like(inputs[:, :1]), y, sigma_B) for each in (fitted, small)]
        assert float((scales[0] - scales[1]).square().mean()) < 0.01 * before, sigma


def test_air_stays_air_and_variances_keep_their_place(config: Config) -> None:
    fitted = config.fit(lambda: heads(24, 0), [f"{n}" for n in range(24)], 0)
    before, after = fitted.state(), config.restore(fitted.compact()).state()
    assert {name: tensor.shape for name, tensor in before.items()} == {name: tensor.shape for name, tensor in after.items()}
    v, w = before["residual"], after["residual"]
    assert bool(((v < FLOOR) == (w == 0))[3:, 3:, 3:].all()) and bool((v[:3, :3, :3] == w[:3, :3, :3]).all())
    seen = v >= FLOOR
    assert float((w[seen] / v[seen]).log().abs().max()) < 0.05
    assert float((before["mean"] - after["mean"]).abs().max()) < 2e-3 and bool((after["mean"][before["mean"] == 0] == 0).all())
    again = config.restore(config.restore(fitted.compact()).compact()).state()
    assert torch.allclose(again["residual"], w, rtol=1e-4) and torch.equal(again["mean"], after["mean"])


@pytest.mark.parametrize("name", ["corner", "present", "detail_means", "detail_variances", "variance_range"])
def test_parts_that_do_not_belong_together_are_refused(config: Config, name: str) -> None:
    state = config.fit(lambda: heads(8, 0), [f"{n}" for n in range(8)], 0).compact()
    with pytest.raises(ValueError, match=name):
        config.restore({**state, name: state[name][:1]})
    with pytest.raises(KeyError):
        config.restore({key: tensor for key, tensor in state.items() if key not in (name, "components")})
