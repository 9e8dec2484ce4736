"""Jumps against closed forms: untrained ones draw the Gaussian in any number of steps, and trained ones the flow of a mixture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.core.given import NOTHING, Examples
from volgen.core.protocols import Problem
from volgen.core.registry import config_class
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.models.haar import corner_scale, low_pass, means, spread, unpyramid
from volgen.models.jump import Jump, Jumping, ends
from volgen.models.model import ExpertModel
from volgen.models.networks.wavelet_unet3d import Config as WaveletUNet
from volgen.models.preconditioners import edm
from volgen.models.preconditioners.gaussian import Config, GaussianPreconditioner, Statistics
from volgen.models.views import whole
from volgen.sampling.descent import Descent, down
from volgen.training.jumps import landed
from volgen.training.objectives.consistency import Config as Consistency
from volgen.training.objectives.distilled import Config as Distilled

SHAPE = (4, 4, 4)
SIZE = math.prod(SHAPE)


def gaussian(commuting: bool, shape: tuple[int, int, int] = SHAPE) -> GaussianPreconditioner:
    """With residual variances that are the same where components are, or not."""
    config, random = Config(levels=1, rank=3, rank_level=1), torch.Generator().manual_seed(0)
    corner = [edge // 2 for edge in shape]
    components = torch.linalg.qr(torch.randn(math.prod(corner), 3, generator=random, dtype=torch.float64))[0].T.view(1, 3, *corner)
    residual = 0.01 + 0.5 * torch.rand(shape, generator=random, dtype=torch.float64)
    if commuting:
        residual[low_pass(shape, 1)] = 0.2
    mean = torch.randn(1, *shape, generator=random, dtype=torch.float64)
    return GaussianPreconditioner(config, Statistics(mean, components, residual, torch.tensor([5.0, 2.0, 0.7], dtype=torch.float64)))


def silent(x: Tensor, noise: Tensor) -> Tensor:
    return torch.zeros_like(x[:, :1])


class Probes:
    """Noise that is 0 in the first channel; in the others each of its numbers, whatever it is drawn for, is 1 in turn."""

    def __init__(self, channels: int) -> None:
        self.channels, self.first, self.drawn = channels, dict[Any, int](), 0

    def __call__(self, shape: tuple[int, ...], seed: int, *key: int | str) -> Tensor:
        if key not in self.first:
            self.first[key], self.drawn = self.drawn, self.drawn + SIZE
        places = torch.arange(self.channels) - 1 - self.first[key]
        return (places[:, None] == torch.arange(SIZE)).double().view(self.channels, *SHAPE)


def moments(preconditioner: GaussianPreconditioner, sampler: str, grid: Sequence[float], to_clean: bool) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what an untrained network draws, without sampling error: channels are volumes."""
    next_to = {**dict(itertools.pairwise(grid)), grid[-1]: 0.0}
    one = PreconditionedDenoiser(silent, Jumping(preconditioner, ends(lambda sigma: 0.0 if to_clean else next_to[sigma])))

    def denoise(y: Tensor, sigma: Tensor, given: Any = None) -> Tensor:
        return one(y[0][:, None], sigma.expand(y.shape[1]))[:, 0][None]

    def prior(z: Tensor, sigma: float) -> Tensor:
        return preconditioner.prior(z[0][:, None], sigma)[:, 0][None]

    def drawn(noise: Probes) -> Tensor:
        solver = config_class("volgen.sampling.samplers", sampler)().build()  # type: ignore[attr-defined]
        shape = (noise.channels, *SHAPE)
        descent = Descent(denoise, solver, down(grid), 0, shape, torch.device("cpu"), Problem(prior), noise)
        state = descent.begin(0)
        for number in range(len(grid)):
            state = descent.advance(state, number, 0)
        return state.x_BCXYZ[0].flatten(1)

    counting = Probes(1)
    drawn(counting)
    made = drawn(Probes(1 + counting.drawn))
    root = made[1:] - made[0]
    return made[0], root.T @ root


@pytest.mark.parametrize(("sampler", "to_clean"), [("euler", False), ("ddim", False), ("renoise", True)])
@pytest.mark.parametrize("grid", [[10.0], [10.0, 0.9], [10.0, 2.0, 0.7, 0.2]])
def test_an_untrained_student_draws_the_gaussian_in_any_number_of_steps(sampler: str, to_clean: bool, grid: list[float]) -> None:
    preconditioner = gaussian(commuting=True)
    s = preconditioner.statistics
    w = unpyramid(torch.eye(SIZE, dtype=torch.float64).view(SIZE, 1, *SHAPE), 1).flatten(1).T
    full = torch.zeros(3, *SHAPE, dtype=torch.float64)
    full[low_pass(SHAPE, 1)] = s.components[0]
    u = full.flatten(1).T
    outside = torch.eye(SIZE, dtype=torch.float64) - u @ u.T
    covariance = w @ (u @ s.variances.diag() @ u.T + outside @ s.residual.flatten().diag() @ outside) @ w.T
    mean, spread = moments(preconditioner, sampler, grid, to_clean)
    size = covariance.diagonal().sqrt().mean()
    assert ((mean - w @ s.mean.flatten()).abs() < 0.02 * size).all()
    assert (spread - covariance).norm() < 0.02 * covariance.norm()


def test_where_components_and_variances_do_not_commute_segments_still_lead_to_one_place() -> None:
    preconditioner = gaussian(commuting=False)
    one, four = (moments(preconditioner, "euler", grid, to_clean=False) for grid in ([10.0], [10.0, 2.0, 0.7, 0.2]))
    torch.testing.assert_close(one, four, rtol=1e-5, atol=1e-5)


def test_jumps_go_nowhere_bit_for_bit_and_their_denoiser_is_what_makes_straight_steps_of_them() -> None:
    preconditioner = gaussian(commuting=False)
    made = partial(PreconditionedDenoiser, lambda x, noise: x[:, :1].sin())
    jump = Jump(made, preconditioner)
    x = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma, to = torch.tensor([3.0, 0.5, 0.1], dtype=torch.float64), torch.tensor([0.5, 0.1, 0.0], dtype=torch.float64)
    assert torch.equal(jump(x, sigma, sigma), x)
    nowhere = torch.zeros(3, dtype=torch.float64)
    assert preconditioner.flow_map is not None and torch.equal(preconditioner.flow_map(x, nowhere, nowhere), x), "f(x, 0) = x"
    assert torch.equal(landed(jump, x, [0.0] * 3, [0.0] * 3, NOTHING), x)
    next_to = dict(zip(sigma.tolist(), to.tolist(), strict=True))
    d = made(Jumping(preconditioner, ends(next_to.__getitem__)))(x, sigma)
    left = (to / sigma).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(d + left * (x - d), jump(x, sigma, to))
    torch.testing.assert_close(d[2], jump(x, sigma, to)[2])


def test_a_jump_of_a_coarser_level_is_one_of_whole_volumes_whose_finer_bands_go_with_the_gaussian() -> None:
    preconditioner, shape = gaussian(commuting=False, shape=(8, 8, 8)), (8, 8, 8)
    model = ExpertModel(WaveletUNet(channels=(8,), norm_groups=4), whole.Config(), level=1)
    network, next_to = (lambda x, noise: x[:, :1].sin()), {3.0: 0.5, 0.5: 0.0}
    jumping = Jumping(preconditioner, ends(lambda level: next_to[round(level, 9)]))
    coarse = Jump(partial(model.of_examples, network), preconditioner.coarse(1))
    x = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma, to = torch.tensor([3.0, 0.5], dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64)
    left = (to / sigma).view(-1, 1, 1, 1, 1)
    d = model.denoiser(network, jumping)(x, sigma)
    made, flowed_only = d + left * (x - d), preconditioner.flow_map(x, sigma, to)
    seen = coarse(means(x, 1), model.sigma(sigma), model.sigma(to))
    torch.testing.assert_close(means(made, 1), seen)
    torch.testing.assert_close(made - spread(means(made, 1), 1), flowed_only - spread(means(flowed_only, 1), 1))
    assert (means(made - flowed_only, 1).abs() > 0.01).any(), "the network says something"
    scale = corner_scale(1)
    d = model.corner(network, jumping)(means(x, 1) * scale, sigma) / scale
    torch.testing.assert_close(d + left * (means(x, 1) - d), seen)


# A mixture in the plane: volumes of 2 x 1 x 1 voxels

MODES = torch.tensor([[0.8, 0.0], [-0.4, 0.7], [-0.4, -0.7]])
WIDTH = 0.15
POINTS = (0.1, 0.3, 0.7, 1.5, 4.0)


def expected(y: Tensor, sigma: float) -> Tensor:
    """E[x0 | y] of the mixture, [N, 2]."""
    total = WIDTH**2 + sigma**2
    share = torch.softmax(-(y[:, None] - MODES).square().sum(dim=2) / (2 * total), dim=1)
    each = MODES + (WIDTH**2 / total) * (y[:, None] - MODES)
    return (share[:, :, None] * each).sum(dim=1)


def flowed(x: Tensor, sigma: float, to: float, steps: int = 60) -> Tensor:
    """The exact flow, by Heun's steps."""
    levels = [*torch.logspace(math.log10(sigma), math.log10(max(to, 1e-3)), steps).tolist(), *([] if to else [0.0])]
    for high, low in itertools.pairwise(levels):
        slope = (x - expected(x, high)) / high
        ahead = x + (low - high) * slope
        x = x + (low - high) * (slope if low == 0.0 else (slope + (ahead - expected(ahead, low)) / low) / 2)
    return x


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), noise[:, None]], dim=1)).view(x.shape)  # type: ignore[no-any-return]


class Toy:
    """A trainee that owns all levels and jumps to 0."""

    points = POINTS
    level = 0

    def __init__(self) -> None:
        self.preconditioner = edm.Config(sigma_data=0.6).restore({})

    def sigma(self, quantile: float) -> float:
        return POINTS[int(quantile * len(POINTS))]

    def end(self, sigma: float) -> float:
        return 0.0

    def seen(self, sigma: float) -> float:
        return sigma

    def denoiser(self, network: Any, ids: Sequence[str] = ()) -> Any:
        raise AssertionError("nobody asks for one")

    def jump(self, network: Any, ids: Sequence[str] = ()) -> Jump:
        return Jump(partial(PreconditionedDenoiser, network), self.preconditioner)


class Quick:
    """Draws of all examples at once."""

    def __init__(self, step: int, count: int) -> None:
        self.step, self.count, self.random = step, count, torch.Generator().manual_seed(step)

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        return torch.rand(self.count, generator=self.random).tolist()  # type: ignore[no-any-return]

    def normal(self, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        return torch.randn(self.count, *shape, generator=self.random)


def volumes(points_N2: Tensor) -> Tensor:
    return points_N2.view(-1, 1, 2, 1, 1)


def far(toy: Toy, network: nn.Module, start: Tensor, exact: Tensor) -> float:
    """Root mean square distance of one jump from the highest level to where the exact flow ends."""
    with torch.no_grad():
        made = toy.jump(network)(volumes(start), torch.full((len(start),), POINTS[-1]), torch.zeros(len(start))).flatten(1)
    return float((made - exact).square().sum(dim=1).mean().sqrt())


def trained(toy: Toy, config: Any, network: nn.Module, examples: Tensor, steps: int) -> None:
    objective, optimiser = config.build(toy), torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(1, steps + 1):
        rows = torch.randint(len(examples), (128,), generator=torch.Generator().manual_seed(step))
        loss = objective.loss(network, Examples(examples[rows]), Quick(step, 128)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_the_distance_to_the_exact_flow_of_a_mixture_falls_with_training() -> None:
    random = torch.Generator().manual_seed(7)

    def noisy(count: int) -> tuple[Tensor, Tensor]:
        clean = MODES[torch.randint(3, (count,), generator=random)] + WIDTH * torch.randn(count, 2, generator=random)
        return clean, clean + POINTS[-1] * torch.randn(count, 2, generator=random)

    _, start = noisy(400)
    exact, toy = flowed(start, POINTS[-1], 0.0), Toy()
    untrained = far(toy, Small(), start, exact)

    states = [noisy(1500)[1]]
    for high, low in itertools.pairwise([*POINTS[::-1], 0.0]):
        states.append(flowed(states[-1], high, low, 20))
    trajectories = torch.stack(states, dim=1).view(-1, len(POINTS) + 1, 2, 1, 1)
    pupil = Small()
    trained(toy, Distilled(levels=POINTS[::-1], detail=0.0), pupil, trajectories, 200)
    assert far(toy, pupil, start, exact) < 0.6 * untrained

    further = Small()
    further.load_state_dict(pupil.state_dict())
    trained(toy, Distilled(levels=POINTS[::-1], detail=0.0, consistency_after=1), further, trajectories, 50)
    assert far(toy, further, start, exact) < 0.6 * untrained

    alone = Small()
    trained(toy, Consistency(halve_every=0, detail=0.0), alone, volumes(noisy(1500)[0]), 250)
    assert far(toy, alone, start, exact) < 0.9 * untrained
