"""The fit in blocks: the same Gaussian as from the whole cohort at once, in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from volgen.models.haar import low_pass, pyramid
from volgen.models.preconditioners import _gaussian_fit
from volgen.models.preconditioners.gaussian import Config, GaussianPreconditioner
from volgen.parallel.memory_trace import Allocations

SHAPE = (16, 8, 8)
COUNT = 45
PEOPLE = [f"person-{index % 30}" for index in range(COUNT)]
CONFIG = Config(levels=1, rank=4, rank_level=1, folds=3)


def cohort() -> list[Tensor]:
    """Volumes far from 0, as heads in air are, with four strong directions of variation."""
    random = torch.Generator().manual_seed(0)
    directions = torch.randn(4, *SHAPE, generator=random)
    scale = torch.tensor([4.0, 3.0, 2.0, 1.0])
    return [
        20.0
        + torch.einsum("r,rxyz->xyz", scale * torch.randn(4, generator=random), directions)
        + 0.2 * torch.randn(SHAPE, generator=random)
        for _ in range(COUNT)
    ]


def fitted(volumes: list[Tensor]) -> tuple[GaussianPreconditioner, int]:
    """The fit and the number of passes that it took."""
    passes = 0

    def stream() -> Iterator[Tensor]:
        nonlocal passes
        passes += 1
        yield from volumes

    result = CONFIG.fit(stream, PEOPLE, seed=0)
    assert isinstance(result, GaussianPreconditioner)
    return result, passes


@pytest.mark.parametrize(("kept", "passes"), [(1 << 30, 2), (32 * 4 * 128, 1 + 2 + 1 + 1), (0, 1 + 3 + 1 + 1)])
def test_every_block_size_gives_the_directions_of_a_dense_decomposition(kept: int, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gaussian_fit, "KEPT_BYTES", kept)
    volumes = cohort()
    fit, taken = fitted(volumes)
    assert taken == passes
    folds = fit.folds
    assert folds is not None
    c = pyramid(torch.stack(volumes)[:, None].double(), 1)[:, 0]
    everybody = torch.ones(COUNT, dtype=torch.bool)
    for subset, found, mean in [
        (everybody, fit.statistics.components[0], fit.statistics.mean[0]),
        *((folds.number != k, folds.components[k], folds.means[k]) for k in range(3)),
    ]:
        centred = c[subset] - c[subset].mean(dim=0)
        torch.testing.assert_close(mean.double(), c[subset].mean(dim=0), rtol=1e-5, atol=1e-5)
        _, _, directions = torch.linalg.svd(centred[low_pass(SHAPE, 1)].flatten(1), full_matrices=False)
        cosines = (found.flatten(1).double() * directions[:4]).sum(dim=1).abs()
        assert (cosines > 1 - 1e-5).all(), "each direction, in its order; its sign means nothing"
        torch.testing.assert_close(found.flatten(1) @ found.flatten(1).T, torch.eye(4), rtol=0, atol=1e-5)
    inside, outside = torch.zeros(4, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)
    for index in range(COUNT):
        k = folds.number[index]
        offset = c[index] - c[folds.number != k].mean(dim=0)
        basis = folds.components[k].double()
        corner = low_pass(SHAPE, 1)
        loadings = torch.einsum("rxyz,xyz->r", basis, offset[corner])
        offset[corner] -= torch.einsum("rxyz,r->xyz", basis, loadings)
        inside += loadings**2 / COUNT
        outside += offset**2 / COUNT
    torch.testing.assert_close(fit.statistics.variances.double(), inside, rtol=1e-4, atol=0)
    torch.testing.assert_close(fit.statistics.residual.double(), outside, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("config", [Config(levels=1, rank=24), Config(levels=1, rank=4, rank_level=0, folds=2)])
def test_memory_does_not_grow_with_the_cohort_and_is_what_the_estimate_says(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (16, 16, 16)
    corner = 4 * 16**3 >> (3 * config.rank_level)
    monkeypatch.setattr(_gaussian_fit, "KEPT_BYTES", 16 * corner)
    allowed = config.fit_bytes(shape)
    volume = torch.randn(shape)
    gram = 24 * 96**2
    peaks = {}
    for count in (48, 96):
        people = [str(index) for index in range(count)]
        with Allocations() as allocations:
            config.fit(lambda count=count: (volume.roll(index) for index in range(count)), people, 0)  # type: ignore[misc]
        peaks[count] = allocations.peak
    assert peaks[96] < peaks[48] + 8 * corner + gram, "of 48 more volumes, 48 corners would have been kept"
    assert 0.5 * allowed < peaks[96] < allowed + gram


@pytest.mark.parametrize("volumes", [8, 30])
def test_the_estimate_for_a_small_cohort_is_what_a_fit_to_it_takes(volumes: int) -> None:
    config, shape = Config(levels=1, rank=6, folds=3), (32, 32, 32)
    allowed = config.fit_bytes(shape, volumes)
    assert allowed < config.fit_bytes(shape) / 50, "without a number of volumes all that a fit may ever keep counts"
    volume = torch.randn(shape)
    with Allocations() as allocations:
        config.fit(lambda: (volume.roll(index) for index in range(volumes)), [str(index) for index in range(volumes)], 0)
    assert 0.6 * allowed < allocations.peak <= 1.02 * allowed


def test_the_estimate_is_that_of_the_tensors() -> None:
    voxels, corner = 64**3, 32**3
    result = 4 * ((6 + 2) * voxels + (6 + 1) * 24 * corner)
    found = Config().fit_bytes((64, 64, 64))
    assert result + _gaussian_fit.KEPT_BYTES < found < 2 * result + _gaussian_fit.KEPT_BYTES
    # What remains of it is what a blank of the same sizes holds.
    state = Config().blank((64, 64, 64), 1000).state(training=True)
    assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) == pytest.approx(result, rel=1e-3)
