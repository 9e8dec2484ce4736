"""The structured Gaussian: what is fitted, to whom, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from volgen.models.haar import low_pass, pyramid
from volgen.models.preconditioners.gaussian import Config, Folds, GaussianPreconditioner

SHAPE = (8, 4, 4)
PEOPLE = [f"person-{index // 2}" for index in range(24)]  # two visits of each
CONFIG = Config(levels=1, rank=3, rank_level=1, folds=4)


def cohort(count: int = len(PEOPLE), seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> list[Tensor]:
    """Volumes with two shared directions of variation, and noise."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, *shape, generator=random)
    return [
        0.2 + torch.einsum("r,rxyz->xyz", torch.randn(2, generator=random), directions) + 0.3 * torch.randn(shape, generator=random)
        for _ in range(count)
    ]


def fitted(volumes: list[Tensor], people: list[str] = PEOPLE, config: Config = CONFIG, seed: int = 0) -> GaussianPreconditioner:
    result = config.fit(lambda: iter(volumes), people, seed)
    assert isinstance(result, GaussianPreconditioner)
    return result


def folds_of(fit: GaussianPreconditioner) -> Folds:
    assert fit.folds is not None
    return fit.folds


def coefficients(volumes: list[Tensor], levels: int) -> Tensor:
    return pyramid(torch.stack(volumes)[:, None], levels)[:, 0]


def test_mean_and_components_are_those_of_the_whole_cohort() -> None:
    volumes = cohort()
    statistics = fitted(volumes).statistics
    c = coefficients(volumes, 1)
    torch.testing.assert_close(statistics.mean[0], c.mean(dim=0), rtol=1e-4, atol=1e-5)
    corner = (c - c.mean(dim=0))[low_pass(SHAPE, 1)].flatten(1)
    _, _, directions = torch.linalg.svd(corner, full_matrices=False)
    found = statistics.components[0].flatten(1)
    torch.testing.assert_close(found @ found.T, torch.eye(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.T @ found, directions[:3].T @ directions[:3], rtol=0, atol=1e-3)  # the same subspace


def test_variances_are_those_of_people_whom_the_fold_has_not_seen() -> None:
    # Leave-one-fold-out written out by hand, with the folds that the fit chose.
    volumes = cohort()
    fit = fitted(volumes)
    s, folds = fit.statistics, folds_of(fit)
    c = coefficients(volumes, 1)
    corner = low_pass(SHAPE, 1)
    inside, outside = torch.zeros(3), torch.zeros(SHAPE)
    for index in range(len(volumes)):
        others = c[folds.number != folds.number[index]]
        mean = others.mean(dim=0)
        _, _, directions = torch.linalg.svd((others - mean)[corner].flatten(1), full_matrices=False)
        offset = c[index] - mean
        loadings = directions[:3] @ offset[corner].flatten()
        rest = offset.clone()
        rest[corner] -= (loadings @ directions[:3]).view(rest[corner].shape)
        inside += loadings**2 / len(volumes)
        outside += rest**2 / len(volumes)
        torch.testing.assert_close(folds.means[folds.number[index]], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(s.variances, inside, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(s.residual, outside, rtol=2e-3, atol=1e-4)


def test_noise_is_not_taken_for_structure() -> None:
    # White noise has the variance 1 in every direction. In sample, the leading directions of 24 volumes would claim several times that.
    random = torch.Generator().manual_seed(1)
    volumes = [torch.randn(16, 8, 8, generator=random) for _ in PEOPLE]
    s = fitted(volumes, config=Config(levels=1, rank=6, rank_level=1, folds=4)).statistics
    corner = coefficients(volumes, 1)[low_pass((16, 8, 8), 1)].flatten(1)
    in_sample = torch.linalg.svdvals(corner - corner.mean(dim=0))[:6] ** 2 / len(volumes)
    assert in_sample.min() > 3, "the test needs a cohort that misleads"
    assert 0.5 < s.variances.mean() < 1.6
    assert 0.95 < s.residual.mean() < 1.15, "1, and 1/18 more for the uncertain mean"


def test_all_scans_of_a_person_share_a_fold_and_folds_are_balanced() -> None:
    fold = folds_of(fitted(cohort())).number.tolist()
    assert all(fold[index] == fold[index + 1] for index in range(0, len(fold), 2))
    assert sorted(fold.count(k) for k in range(4)) == [6, 6, 6, 6]


@pytest.mark.parametrize("person", ["person-0", "person-7"])
def test_what_a_person_is_seen_through_does_not_know_that_person(person: str) -> None:
    volumes = cohort()
    other = [volume if who != person else 5.0 - 3.0 * volume for volume, who in zip(volumes, PEOPLE, strict=True)]
    before, after = fitted(volumes), fitted(other)
    mine = [index for index, who in enumerate(PEOPLE) if who == person]
    for field in ("mean", "components"):
        seen = [getattr(fit.held_out(mine).statistics, field) for fit in (before, after)]  # type: ignore[attr-defined]
        torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-6)
        number = folds_of(before).number
        theirs = int((number != number[mine[0]]).nonzero()[0])
        known = [getattr(fit.held_out([theirs]).statistics, field) for fit in (before, after)]  # type: ignore[attr-defined]
        assert (known[0] - known[1]).abs().max() > 0.01, "the others do know"


def test_held_out_gives_each_element_of_a_batch_its_own_fold() -> None:
    volumes = cohort()
    whole = fitted(volumes)
    s, folds = whole.statistics, folds_of(whole)
    numbers = [5, 0, 5, 23]
    batch = whole.held_out(numbers)
    assert isinstance(batch, GaussianPreconditioner)
    assert torch.equal(batch.statistics.mean, folds.means[folds.number[numbers]])
    assert torch.equal(batch.statistics.components, folds.components[folds.number[numbers]])
    assert torch.equal(batch.statistics.residual, s.residual)
    sigma = torch.tensor([0.1, 0.5, 1.0, 5.0])
    y = torch.stack([volumes[n] for n in numbers])[:, None]
    together, scale = batch.expected(y, sigma), batch.weight(sigma)
    assert together.shape == (4, 1, *SHAPE)
    for row, number in enumerate(numbers):
        alone = whole.held_out([number])
        assert isinstance(alone, GaussianPreconditioner)
        torch.testing.assert_close(together[row : row + 1], alone.expected(y[row : row + 1], sigma[row : row + 1]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scale[row : row + 1], alone.weight(sigma[row : row + 1]))


def test_where_every_head_is_air_the_mean_is_returned_whatever_the_network_says() -> None:
    volumes = [volume.clone() for volume in cohort(shape=(16, 8, 8))]
    for volume in volumes:
        volume[:8] = -1.0
    preconditioner = fitted(volumes)
    random = torch.Generator().manual_seed(4)
    for sigma in (0.01, 1.0, 50.0):
        y = sigma * torch.randn(2, 1, 16, 8, 8, generator=random) - 1
        x0 = preconditioner.denoise(lambda x, n: 1e3 * torch.ones_like(x[:, :1]), y, torch.full((2,), sigma))
        # The scale is averaged over 3^3 neighbours: one layer of air beside the head is not silent.
        torch.testing.assert_close(x0[:, :, :7], torch.full_like(x0[:, :, :7], -1.0), rtol=0, atol=1e-4)
        assert (x0[:, :, 8:] > 2).all(), "elsewhere the network is heard"


def test_network_sees_the_centred_volume_and_the_estimate() -> None:
    volumes = cohort()
    preconditioner = fitted(volumes)
    y, sigma = torch.stack(volumes[:2])[:, None], torch.tensor([0.3, 3.0])
    seen: list[Tensor] = []

    def network(x: Tensor, noise: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x[:, :1])

    x0 = preconditioner.denoise(network, y, sigma)
    torch.testing.assert_close(seen[0][:, 1:], preconditioner.expected(y, sigma))
    torch.testing.assert_close(x0, preconditioner.expected(y, sigma))
    total = preconditioner.statistics.residual.mean() + sigma**2
    mean = torch.stack(volumes).mean(dim=0)
    torch.testing.assert_close(seen[0][:, :1], (y - mean) * total.rsqrt().view(-1, 1, 1, 1, 1), rtol=1e-4, atol=1e-4)


def test_fit_depends_on_the_seed_by_its_folds_alone() -> None:
    volumes = cohort()
    first, again, other = fitted(volumes), fitted(volumes), fitted(volumes, seed=1)
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in first.state().items())
    assert not torch.equal(folds_of(first).number, folds_of(other).number)
    torch.testing.assert_close(first.statistics.mean, other.statistics.mean)


def test_volumes_are_read_in_two_passes_one_at_a_time() -> None:
    alive: list[int] = []

    def stream() -> Iterator[Tensor]:
        alive.append(0)
        for volume in cohort():
            alive[-1] += 1
            yield volume.half()

    preconditioner = CONFIG.fit(stream, PEOPLE, 0)
    assert alive == [len(PEOPLE)] * 2
    assert all(tensor.dtype == torch.float32 for tensor in preconditioner.state().values())


def test_few_people_get_fewer_components_and_too_few_are_refused() -> None:
    volumes = cohort(5)
    people = [f"person-{index}" for index in range(5)]
    s = fitted(volumes, people, Config(levels=1, rank=24, folds=5)).statistics
    assert (s.variances.shape, s.components.shape) == ((2,), (1, 2, 4, 2, 2))
    with pytest.raises(ValueError, match="at least 6 people in the training split, found 5"):
        fitted(volumes, people, Config(folds=6))
    with pytest.raises(ValueError, match="at least 4 people in the training split, found 3"):
        fitted(cohort(6), [f"person-{index // 2}" for index in range(6)], CONFIG)


def test_rank_0_and_no_wavelets_are_objects_too() -> None:
    volumes = cohort()
    preconditioner = fitted(volumes, config=Config(levels=0, rank=0, rank_level=0, folds=4))
    assert preconditioner.statistics.variances.shape == (0,)
    y, sigma = torch.stack(volumes[:2])[:, None], torch.tensor([0.3, 3.0])
    v, mean = preconditioner.statistics.residual, torch.stack(volumes).mean(dim=0)
    expected = mean + v / (v + sigma.view(-1, 1, 1, 1, 1) ** 2) * (y - mean)
    torch.testing.assert_close(preconditioner.expected(y, sigma), expected, rtol=1e-4, atol=1e-5)


def test_gaussian_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="rank_level 2 is above levels 1"):
        Config(levels=1, rank_level=2)
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        Config(folds=1)
    assert [Config(levels=levels, rank_level=0).multiple for levels in (0, 1, 3)] == [1, 2, 8]
    assert Config().inputs == 2


def test_what_a_finished_run_keeps_does_not_depend_on_the_folds() -> None:
    # Mean and fold means together give away whoever is alone in a fold: (n m - (n - 1) m_without) is that person's scan.
    volumes = cohort(4)
    people = [f"person-{index}" for index in range(4)]
    fit = fitted(volumes, people, Config(levels=1, rank=1, folds=4))
    leaked = 4 * fit.statistics.mean[0] - 3 * folds_of(fit).means[folds_of(fit).number[2]]
    torch.testing.assert_close(leaked, coefficients(volumes, 1)[2], rtol=1e-4, atol=1e-4)
    assert set(fit.state()) == {"mean", "components", "residual", "variances"}
    restored = fit.config.restore(fit.state())
    assert isinstance(restored, GaussianPreconditioner) and restored.folds is None
    training = fit.config.restore(fit.state(training=True)).held_out([2])
    assert isinstance(training, GaussianPreconditioner)
    torch.testing.assert_close(training.statistics.mean[0], folds_of(fit).means[folds_of(fit).number[2]])


def test_one_person_with_most_of_the_scans() -> None:
    volumes = cohort(14)
    people = ["person-0"] * 9 + [f"person-{index}" for index in range(1, 6)]
    fit = fitted(volumes, people, Config(levels=1, rank=24, folds=4))
    assert fit.statistics.variances.shape == (2,), "half of the 5 scans that are left without the largest fold"


def test_a_mirrored_fit_is_that_of_volumes_and_their_mirror_images() -> None:
    volumes = [torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(k)) for k in range(9)]
    people = [str(k) for k in range(9)]
    one = Config(levels=1, rank=4, rank_level=0, folds=3, mirrored=True).fit(lambda: iter(volumes), people, 0)
    both = [each for volume in volumes for each in (volume, volume.flip(0))]
    other = Config(levels=1, rank=4, rank_level=0, folds=3).fit(lambda: iter(both), [name for name in people for _ in "lr"], 0)
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())
    # Who is left out is left out with both: number k of the pass is volume k, as without mirror images.
    y, sigma = torch.randn(3, 1, 6, 8, 4), torch.tensor([0.3, 0.5, 1.0])
    assert torch.equal(one.held_out([0, 4, 8]).expected(y, sigma), other.held_out([0, 8, 16]).expected(y, sigma))
    # And the mean is symmetric.
    mean = one.expected(torch.zeros(1, 1, 6, 8, 4), torch.tensor([1e6]))
    torch.testing.assert_close(mean, mean.flip(2))
