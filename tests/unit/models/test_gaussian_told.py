"""The structured Gaussian that is told of people, against the conditional of a joint Gaussian written out with dense matrices."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from volgen.core.given import NOTHING, Given, Known
from volgen.core.protocols import Problem
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.models.haar import low_pass, means, pyramid, unpyramid
from volgen.models.jump import Jump
from volgen.models.place import coordinates
from volgen.models.preconditioners._gaussian_fit import Statistics
from volgen.models.preconditioners._gaussian_told import Feature, Telling
from volgen.models.preconditioners.gaussian import Config, GaussianPreconditioner
from volgen.models.views.patches import Config as Patches
from volgen.sampling.descent import down, sample
from volgen.sampling.samplers import heun
from volgen.sampling.translation import Bridge, Told, crossed

SHAPE = (8, 4, 4)
RANK = 4
CORNER = low_pass(SHAPE, 1)
CONFIG = Config(levels=1, rank=RANK, rank_level=1, folds=4, told=True)
AGES, SEXES = [0.3, -1.2, math.nan, 2.0], [1.0, math.nan, 0.0, math.nan]
GIVEN = Given(fitted={"age": torch.tensor(AGES), "sex": torch.tensor(SEXES)})
"""Rows that are told both, the age, the sex, the age."""


def gaussian() -> GaussianPreconditioner:
    """One whose variances outside of the components commute with them, and which is told of a number and of one of three words."""
    random = torch.Generator().manual_seed(1)
    edges = [size // 2 for size in SHAPE]
    components = torch.linalg.qr(torch.randn(math.prod(edges), RANK, generator=random))[0].T.reshape(1, RANK, *edges)
    residual = 0.02 + 0.2 * torch.rand(SHAPE, generator=random)
    residual[CORNER] = 0.07
    statistics = Statistics(torch.randn(1, *SHAPE, generator=random), components, residual, torch.tensor([9.0, 4.0, 1.0, 0.3]))
    rows = torch.nn.functional.one_hot(torch.randint(3, (500,), generator=random), 3).double()
    features = torch.column_stack([torch.randn(500, generator=random).double() + rows[:, 1], rows])
    covariance = torch.cov(features.T)
    shared = (0.3 * statistics.variances.sqrt()[:, None].double() * torch.randn(RANK, 4, generator=random)) @ covariance
    telling = Telling((Feature("age", 0), Feature("sex", 3)), features.mean(dim=0)[None], covariance[None], shared[None])
    return GaussianPreconditioner(CONFIG, statistics, None, telling)


def dense(fitted: GaussianPreconditioner, age: float, sex: float) -> tuple[Tensor, Tensor]:
    """Mean [d] and covariance [d, d] of the voxels of those of whom it is true: the joint Gaussian of voxels and features, conditioned."""
    s, telling = fitted.statistics, fitted._telling
    assert telling is not None
    size = math.prod(SHAPE)
    basis = unpyramid(torch.eye(size).view(size, 1, *SHAPE), 1).view(size, size).T.double()  # coefficients -> voxels
    wide = torch.zeros(RANK, *SHAPE)
    wide[CORNER] = s.components[0]
    U = wide.view(RANK, size).T.double()
    rest = torch.eye(size).double() - U @ U.T
    everybody = U @ torch.diag(s.variances.double()) @ U.T + rest @ torch.diag(s.residual.flatten().double()) @ rest
    told = [0] * (not math.isnan(age)) + [1, 2] * (not math.isnan(sex))  # of three words two say all
    value = torch.tensor([age, sex == 0, sex == 1, sex == 2]).double()
    across = (U @ telling.shared[0])[:, told]
    gain = across @ torch.linalg.inv(telling.covariance[0][told][:, told]) if told else torch.zeros(size, 0).double()
    mean = s.mean.flatten().double() + gain @ (value - telling.centre[0])[told]
    return basis @ mean, basis @ (everybody - gain @ across.T) @ basis.T


def noisy(count: int = len(AGES), sigma: float = 1.5) -> Tensor:
    return sigma * torch.randn(count, 1, *SHAPE, generator=torch.Generator().manual_seed(3))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1).double()


def test_all_some_or_none_of_what_is_known_is_the_conditional_of_the_joint_gaussian() -> None:
    fitted, y, sigma = gaussian(), noisy(), torch.tensor([0.4, 1.5, 5.0, 60.0])
    expected, found = [], flat(fitted.told(GIVEN).expected(y, sigma))
    for row, (age, sex) in enumerate(zip(AGES, SEXES, strict=True)):
        mean, covariance = dense(fitted, age, sex)
        noise = float(sigma[row]) ** 2 * torch.eye(len(mean)).double()
        expected.append(mean + covariance @ torch.linalg.solve(covariance + noise, flat(y)[row] - mean))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=2e-5)
    assert float((found - flat(fitted.expected(y, sigma))).abs().max()) > 0.1, "what is told matters"


def test_noise_and_flow_and_spread_are_those_of_the_conditional() -> None:
    fitted, noise = gaussian(), noisy(1, 1.0)
    for age, sex in itertools.product((0.7, math.nan), (2.0, math.nan)):
        given = Given(fitted={"age": torch.tensor([age]), "sex": torch.tensor([sex])})
        known, (mean, covariance) = fitted.told(given), dense(fitted, age, sex)
        values, vectors = torch.linalg.eigh(covariance)

        def root(sigma: float, vectors: Tensor = vectors, values: Tensor = values) -> Tensor:
            return vectors @ torch.diag((values.clamp(min=0) + sigma**2).sqrt()) @ vectors.T

        x = mean + root(2.0) @ flat(noise)[0]
        torch.testing.assert_close(flat(known.prior(noise, 2.0))[0], x, rtol=1e-4, atol=1e-4)
        assert known.flow_map is not None and known.covariance is not None
        moved = known.flow_map(known.prior(noise, 2.0), torch.tensor([2.0]), torch.tensor([0.3]))
        torch.testing.assert_close(flat(moved)[0], mean + root(0.3) @ flat(noise)[0], rtol=1e-4, atol=1e-4)
        posterior = covariance @ torch.linalg.inv(covariance + 4.0 * torch.eye(len(mean)).double()) * 4.0
        torch.testing.assert_close(flat(known.covariance.times(noise, 2.0))[0], posterior @ flat(noise)[0], rtol=1e-4, atol=1e-4)
        # The network's correction is in units of the posterior's standard deviation: of those of whom it is true.
        near = known.denoise(lambda x, _: torch.ones_like(x[:, :1]), noise, torch.tensor([2.0])) - known.expected(
            noise, torch.tensor([2.0])
        )
        voxel = posterior.diagonal().view(1, 1, *SHAPE)
        smooth = torch.nn.functional.avg_pool3d(voxel, 3, 1, 1, count_include_pad=False).sqrt()
        # (What v has along the components is counted in it: a few per cent.)
        torch.testing.assert_close(near.double(), smooth, rtol=0.03, atol=0.0)


def test_told_nothing_it_is_the_gaussian_of_everybody_bit_for_bit() -> None:
    fitted, y, sigma = gaussian(), noisy(), torch.full((4,), 1.5)
    nothing = Given(fitted={"age": torch.full((4,), math.nan), "sex": torch.full((4,), math.nan)})
    for given in (NOTHING, nothing, Given(fitted={"weight": torch.ones(4)}), Given(channels=y)):
        assert fitted.told(given) is fitted
    alone = fitted.told(Given(fitted={"age": torch.tensor([math.nan, 1.0])})).expected(y[:2], sigma[:2])
    assert torch.equal(alone[:1], fitted.expected(y[:1], sigma[:1])), "and in a batch with somebody of whom something is told"
    assert not torch.equal(alone[1:], fitted.expected(y[1:2], sigma[1:2]))
    unknown = Given(fitted={"sex": torch.tensor([7.0])})  # no such word
    assert fitted.told(unknown) is fitted


def test_each_row_of_a_batch_is_told_by_itself() -> None:
    fitted, y, sigma = gaussian(), noisy(), torch.tensor([0.4, 1.5, 5.0, 60.0])
    network = PreconditionedDenoiser(lambda x, noise, values=None: x[:, :1] * 0.1, fitted)
    together, order = network(y, sigma, GIVEN), [2, 0, 3, 1]
    for row in range(4):
        torch.testing.assert_close(network(y[[row]], sigma[[row]], GIVEN[[row]])[0], together[row], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network(y[order], sigma[order], GIVEN[order]), together[order], rtol=1e-5, atol=1e-6)
    swapped = network(y, sigma, GIVEN[[0, 1, 3, 2]])
    torch.testing.assert_close(swapped[:2], together[:2], rtol=1e-5, atol=1e-6)
    assert float((swapped[2:] - together[2:]).abs().amax(dim=(1, 2, 3, 4)).min()) > 0.01
    torch.testing.assert_close(network.weight(sigma), fitted.weight(sigma), rtol=0, atol=0)


def test_means_over_cubes_are_told_the_same() -> None:
    fitted, y = gaussian(), noisy()
    fine = fitted.told(GIVEN).expected(y, torch.full((4,), 3.0))
    coarse = fitted.coarse(1).told(GIVEN).expected(means(y, 1), torch.full((4,), 3.0 / 2**1.5))
    torch.testing.assert_close(coarse, means(fine, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fitted.told(GIVEN).coarse(1).expected(means(y, 1), torch.full((4,), 3.0 / 2**1.5)), coarse, rtol=0, atol=0)


def test_pieces_have_the_mean_and_the_variances_of_those_of_whom_it_is_true() -> None:
    fitted = gaussian()
    where = coordinates(SHAPE, (0, 0, 0), SHAPE).expand(4, -1, -1, -1, -1)
    piece: Any = fitted.told(GIVEN).pieces().at(where)
    for row, (age, sex) in enumerate(zip(AGES, SEXES, strict=True)):
        mean, covariance = dense(fitted, age, sex)
        size = len(mean)
        basis = pyramid(torch.eye(size).view(size, 1, *SHAPE), 1).view(size, size).T.double()  # voxels -> coefficients
        torch.testing.assert_close(flat(piece.mean)[row], basis @ mean, rtol=1e-4, atol=1e-5)
        along = torch.zeros(SHAPE)
        along[CORNER] = 0.07 * fitted.statistics.components[0].square().sum(dim=0)  # v is added as it is, along the components too
        expected = (basis @ covariance @ basis.T).diagonal() + along.flatten()
        torch.testing.assert_close(flat(piece.variance)[row], expected, rtol=1e-4, atol=1e-5)
    view, y = Patches(edge=4, per_scan=2), noisy()
    halves = Given(where, fitted=GIVEN.fitted)
    network = view.of_examples(lambda x, noise, values=None: torch.zeros_like(x[:, :1]), fitted)
    whole = view.denoiser(lambda x, noise, values=None: torch.zeros_like(x[:, :1]), fitted, None)  # type: ignore[arg-type]
    told = whole(y, torch.ones(4), GIVEN)
    torch.testing.assert_close(network(y, torch.ones(4), halves), told, rtol=1e-4, atol=1e-5)
    again = whole(y, torch.ones(4), GIVEN[[1, 0, 2, 3]])
    assert float((again[:2] - told[:2]).abs().max()) > 0.01, "nothing of the batch before is kept"
    torch.testing.assert_close(again[2:], told[2:], rtol=1e-5, atol=1e-6)


def test_an_untrained_model_draws_those_who_are_asked_for() -> None:
    fitted = gaussian()
    denoise = PreconditionedDenoiser(lambda x, noise, values=None: torch.zeros_like(x[:, :1]), fitted)
    problem = Problem(fitted.prior, told=lambda given: Problem(fitted.told(given).prior))
    grid = [6.0 * 0.75**step for step in range(40)]  # begins at twice the largest deviation: what is asked for is there from the start
    asked = [GIVEN[[0]], GIVEN[[1]], NOTHING]
    drawn = sample(denoise, heun.Config().build(), down(grid), seed=4, indices=[0, 1, 2], shape=(1, *SHAPE), problem=problem, given=asked)
    noises = sample(lambda y, sigma, given=NOTHING: y, heun.Config().build(), ((1.0, 1.0),), seed=4, indices=[0, 1, 2], shape=(1, *SHAPE))
    for volume, noise, given in zip(drawn, noises, asked, strict=True):
        # One noise gives one path, so this is mean and covariance: x = m + Sigma^(1/2) z.
        torch.testing.assert_close(volume, fitted.told(given).noised(noise[None], 0.0)[0], rtol=0.01, atol=0.02)


def test_translation_is_that_of_the_gaussians_wherever_the_noise_ends() -> None:
    fitted = gaussian()
    denoise = PreconditionedDenoiser(lambda x, noise, values=None: torch.zeros_like(x[:, :1]), fitted)
    one, other = GIVEN[[1]], Given(fitted={"age": torch.tensor([1.5]), "sex": torch.tensor([0.0])})
    here, there, x = fitted.told(one), fitted.told(other), fitted.told(one).noised(noisy(1, 1.0), 0.05)[0]
    grid = [2.0 * 0.85**step for step in range(24)]  # ends below the largest deviation, 3
    bridge = Bridge(heun.Config().build(), grid, torch.device("cpu"))
    up = bridge.up(Told(denoise, one), x)
    found = bridge.down(Told(denoise, other), crossed(up, grid[0], here, there))
    expected = there.noised(noisy(1, 1.0), 0.05)[0]
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.02)
    assert float((bridge.down(Told(denoise, other), up) - expected).abs().max()) > 0.2, "left as it was it would lose half of the way"
    returned = bridge.down(Told(denoise, one), crossed(bridge.up(Told(denoise, other), found), grid[0], there, here))
    torch.testing.assert_close(returned, x, rtol=0.01, atol=0.01)
    assert crossed(up, grid[0], fitted, fitted) is not None and torch.equal(crossed(up, grid[0], fitted, fitted, 0.7), up)
    half = crossed(up, grid[0], here, there, 0.5)
    torch.testing.assert_close(half, (up + crossed(up, grid[0], here, there)) / 2)


def test_jumps_go_along_the_flow_of_those_who_are_asked_for() -> None:
    fitted, x = gaussian(), noisy()
    jump = Jump(lambda known: PreconditionedDenoiser(lambda x, noise, values=None: torch.zeros_like(x[:, :1]), known), fitted)
    sigma, to = torch.full((4,), 3.0), torch.full((4,), 0.2)
    known = fitted.told(GIVEN)
    assert known.flow_map is not None
    torch.testing.assert_close(jump(x, sigma, to, GIVEN), known.flow_map(x, sigma, to))


def cohort(count: int, slope: float, seed: int = 0) -> tuple[list[Tensor], dict[str, Known]]:
    """Volumes whose second of three directions follows an age; two people in ten are not known."""
    random = torch.Generator().manual_seed(seed)
    coefficients = torch.zeros(3, 1, *SHAPE)
    for number, place in enumerate(((0, 0, 1), (1, 1, 0), (2, 0, 1))):
        coefficients[(number, 0, *place)] = 1.0
    directions = unpyramid(coefficients, 1)[:, 0]
    age = torch.randn(count, generator=random)
    loadings = torch.randn(count, 3, generator=random) * torch.tensor([4.0, 2.0, 1.5])
    loadings[:, 1] += slope * age
    volumes = torch.einsum("nr,rxyz->nxyz", loadings, directions) + 0.1 * torch.randn(count, *SHAPE, generator=random)
    return list(volumes), {"age": Known(torch.where(torch.arange(count) % 10 < 2, math.nan, age))}


def fitted_to(volumes: list[Tensor], told: dict[str, Known], config: Config = CONFIG) -> GaussianPreconditioner:
    found = config.fit(lambda: iter(volumes), [f"person-{number}" for number in range(len(volumes))], 0, (), told)
    assert isinstance(found, GaussianPreconditioner)
    return found


def test_a_fit_finds_what_people_show_and_what_it_leaves() -> None:
    volumes, told = cohort(600, 3.0)
    fitted = fitted_to(volumes, told, CONFIG.model_copy(update={"rank": 3}))
    known: Any = fitted.told(Given(fitted={"age": torch.tensor([1.0])}))
    y = torch.zeros(1, 1, *SHAPE)
    moved = pyramid(known.expected(y, torch.tensor([1e4])) - fitted.expected(y, torch.tensor([1e4])), 1)[0, 0]
    assert float(moved[1, 1, 0]) == pytest.approx(3.0 * (1.0 - float(told["age"].values.nanmean())), abs=0.25)
    left = known.statistics.variances[0].sort().values
    torch.testing.assert_close(left, torch.tensor([1.5, 2.0, 4.0]) ** 2, rtol=0.2, atol=0.0)  # of 13 along the second, 4 are left
    assert float(fitted.statistics.variances.sort().values[1]) == pytest.approx(13.0, rel=0.2)


def test_slopes_that_only_their_people_show_explain_little() -> None:
    many = fitted_to(*cohort(600, 3.0))._telling
    assert many is not None
    slopes = many.shared[0, :, 0] / many.covariance[0, 0, 0]
    assert float(slopes.norm()) == pytest.approx(3.0, abs=0.2), "of many people all of it counts"
    chance = []
    for seed in range(6):
        fitted = fitted_to(*cohort(24, 0.0, seed))
        assert fitted._telling is not None
        slopes = fitted._telling.shared[0, :, 0] / fitted._telling.covariance[0, 0, 0]
        chance.append(float((slopes / fitted.statistics.variances.sqrt()).norm()))
    assert sum(chance) / 6 < 0.25, "of few, what people outside of a fold show of it; slopes as they are would be 0.46"
    volumes, told = cohort(24, 0.0)
    fitted = fitted_to(volumes, told)
    raw = CONFIG.model_copy(update={"told": False})
    for name, tensor in fitted_to(volumes, told, raw).state(training=True).items():
        assert torch.equal(tensor, fitted.state(training=True)[name]), "everybody's Gaussian is what it is without the key"


def test_nobody_is_seen_through_slopes_that_they_taught() -> None:
    volumes, told = cohort(40, 2.0)
    one = fitted_to(volumes, told)
    other = fitted_to(volumes, {"age": replace(told["age"], values=told["age"].values.clone().index_fill_(0, torch.tensor([5]), 9.0))})
    assert one.folds is not None
    fold = int(one.folds.number[5])
    for k in range(CONFIG.folds):
        ours, theirs = (each._telling_folds.shared[k] for each in (one, other))  # type: ignore[union-attr]
        same = torch.allclose(ours / ours.norm(), theirs / theirs.norm(), rtol=1e-9, atol=1e-12)
        assert same == (k == fold), "only the fold without this person is the same in direction"
    given, y, sigma = Given(fitted={"age": torch.tensor([1.0, 1.0])}), noisy(2), torch.full((2,), 2.0)
    pair = [5, next(number for number in range(40) if int(one.folds.number[number]) != fold)]
    held, again = (each.held_out(pair) for each in (one, CONFIG.restore(one.state(training=True))))
    torch.testing.assert_close(held.told(given).expected(y, sigma), again.told(given).expected(y, sigma), rtol=1e-5, atol=1e-5)
    assert held.told(NOTHING) is held
    for row, k in enumerate(int(one.folds.number[each]) for each in pair):
        moved = pyramid(held.told(given).expected(y, torch.full((2,), 1e5)) - held.expected(y, torch.full((2,), 1e5)), 1)[row, 0][CORNER]
        telling = one._telling_folds
        assert telling is not None
        slopes = telling.shared[k, :, 0] / telling.covariance[k, 0, 0] * (1.0 - telling.centre[k, 0])
        torch.testing.assert_close(moved, torch.einsum("r,rxyz->xyz", slopes.float(), one.folds.components[k]), rtol=1e-3, atol=1e-4)


def test_what_is_told_is_stored_and_handed_on_without_folds() -> None:
    fitted = fitted_to(*cohort(60, 2.0))
    y, sigma, given = noisy(2), torch.full((2,), 2.0), Given(fitted={"age": torch.tensor([1.0, math.nan])})
    state = fitted.state()
    assert not any(name.startswith("fold") for name in state) and "told_0_0_age" in state
    for kept, far in ((state, 1e-5), (fitted.compact(), 0.02)):
        again = CONFIG.restore(kept)
        torch.testing.assert_close(again.told(given).expected(y, sigma), fitted.told(given).expected(y, sigma), rtol=far, atol=far)
        assert again.told(NOTHING) is again
    with pytest.raises(ValueError, match="'told_covariance' is"):
        CONFIG.restore({**state, "told_covariance": torch.zeros(2, 2)})
    with pytest.raises(KeyError):
        CONFIG.restore({name: tensor for name, tensor in state.items() if name != "told_covariance"})


def test_cohorts_and_settings_that_teach_nothing_are_refused() -> None:
    volumes, told = cohort(24, 1.0)
    with pytest.raises(ValueError, match="known of fewer than two people"):
        fitted_to(volumes, {"age": Known(torch.full((24,), math.nan))})
    with pytest.raises(ValueError, match="13 numbers and words are told of 24 people, and the structured Gaussian learns of 12"):
        fitted_to(volumes, {**told, "site": Known(torch.arange(24.0) % 12, 12)})
    with pytest.raises(ValidationError, match="rank is 0"):
        Config(rank=0, told=True)
    with pytest.raises(ValueError, match="a word of 'site' is true of 2 of the training people, and told of 3 at least"):
        fitted_to(volumes, {"site": Known((torch.arange(24.0) >= 22).float(), 2)})
    with pytest.raises(ValueError, match="13 numbers and words are told of 24 people"):  # whom mirror images do not double
        fitted_to(volumes, {**told, "site": Known(torch.arange(24.0) % 12, 12)}, CONFIG.model_copy(update={"mirrored": True}))
    mirrored = fitted_to(volumes, told, CONFIG.model_copy(update={"mirrored": True}))
    assert mirrored._telling is not None and mirrored.folds is not None and len(mirrored.folds.number) == 24


def test_the_units_of_a_number_do_not_matter() -> None:
    volumes, told = cohort(200, 3.0)
    words = Known((torch.arange(200) % 2).float(), 2)
    y, sigma = torch.zeros(1, 1, *SHAPE), torch.tensor([1e4])

    def expected(unit: float) -> Tensor:
        fitted = fitted_to(volumes, {"age": Known(told["age"].values * unit), "group": words})
        given = Given(fitted={"age": torch.tensor([1.5 * unit]), "group": torch.tensor([1.0])})
        return fitted.told(given).expected(y, sigma)

    years = expected(1.0)
    for unit in (1e-5, 1e5):
        torch.testing.assert_close(expected(unit), years, rtol=1e-3, atol=1e-3)


def test_it_is_said_where_what_is_told_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    volumes, _ = cohort(40, 0.0)
    fitted_to(volumes, {"age": Known(torch.randn(40, generator=torch.Generator().manual_seed(5)))})
    assert "preconditioner.told is of no use here" in capsys.readouterr().err
    fitted_to(*cohort(40, 3.0))
    assert "no use" not in capsys.readouterr().err


def test_what_is_told_has_a_slope_for_each_component() -> None:
    one = gaussian()
    assert one._telling is not None
    with pytest.raises(ValueError, match="is of 3 components, and there are 4"):
        GaussianPreconditioner(CONFIG, one.statistics, None, replace(one._telling, shared=one._telling.shared[:, :3]))
