"""Experts of patches: the Gaussian of pieces in closed form, tiles against the whole, how far a network sees, what is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.core.given import Given
from volgen.core.protocols import Shape3
from volgen.data.scan import VolumeScan
from volgen.models import reach
from volgen.models.denoiser import knowing
from volgen.models.haar import pyramid
from volgen.models.jump import Jump, Jumping, ends
from volgen.models.model import ExpertModel
from volgen.models.networks import unet3d, wavelet_unet3d
from volgen.models.place import coordinates
from volgen.models.preconditioners import edm
from volgen.models.preconditioners._gaussian_fit import Folds, Statistics
from volgen.models.preconditioners.gaussian import Config as Gaussian
from volgen.models.preconditioners.gaussian import GaussianPreconditioner
from volgen.models.views import patches, whole

SHAPE: Shape3 = (16, 24, 8)
SIGMA = torch.tensor([0.05, 0.7])
PLACES: list[tuple[Shape3, Shape3]] = [((0, 0, 0), (8, 8, 8)), ((8, 16, 0), (8, 8, 4)), ((4, 4, 4), (4, 12, 4)), ((0, 0, 0), SHAPE)]


def gaussian(levels: int, rank_level: int, rank: int) -> GaussianPreconditioner:
    """A made-up fit with two folds, in which the first quarter has no variance."""
    random = torch.Generator().manual_seed(0)
    head = torch.rand(1, 1, *SHAPE, generator=random)
    head[:, :, : SHAPE[0] // 4] = 0.0
    somewhere = (pyramid(head, levels)[0, 0] != 0).float()  # of coefficients whose cubes have anything in them
    residual = torch.rand(SHAPE, generator=random) ** 4 * somewhere
    x, y, z = (size >> rank_level for size in SHAPE)
    components = torch.randn(3, rank, x, y, z, generator=random) * 0.2 * somewhere[:x, :y, :z]
    means = torch.randn(3, *SHAPE, generator=random)
    statistics = Statistics(means[:1], components[:1], residual, torch.rand(rank, generator=random))
    config = Gaussian(levels=levels, rank=rank, rank_level=rank_level, folds=2)
    return GaussianPreconditioner(config, statistics, Folds(torch.tensor([1, 0, 1]), means[1:], components[1:]))


def independent(fit: GaussianPreconditioner, row: int | None = None) -> GaussianPreconditioner:
    """The same without components, and all of their variance in the coefficients: its posterior mean is exact, and of whole volumes."""
    s, folds = fit.statistics, fit.folds
    assert folds is not None
    mean, components = (s.mean, s.components) if row is None else (folds.means[row : row + 1], folds.components[row : row + 1])
    variance = s.residual.clone()
    x, y, z = (size >> fit.config.rank_level for size in SHAPE)
    variance[:x, :y, :z] += (components[0] ** 2 * s.variances[:, None, None, None]).sum(dim=0)
    alone = Statistics(mean, components[:, :0], variance, s.variances[:0])
    return GaussianPreconditioner(fit.config.model_copy(update={"rank": 0}), alone)


def noisy(batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, *SHAPE, generator=torch.Generator().manual_seed(3))


def box(start: Shape3, size: Shape3) -> tuple[Any, ...]:
    return (..., *(slice(first, first + count) for first, count in zip(start, size, strict=True)))


def ones(x: Tensor, noise: Tensor) -> Tensor:
    return torch.ones_like(x[:, :1])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("levels", "rank_level", "rank"), [(0, 0, 2), (1, 1, 2), (2, 1, 0), (2, 1, 3), (2, 2, 2)])
def test_a_piece_is_denoised_as_its_voxels_are_in_the_whole_volume(levels: int, rank_level: int, rank: int, place: Any) -> None:
    fit, y = gaussian(levels, rank_level, rank), noisy()
    start, size = place
    piece = fit.pieces().at(coordinates(SHAPE, start, size).expand(2, -1, -1, -1, -1))
    exact = independent(fit)
    if rank == 0:
        torch.testing.assert_close(exact.expected(y, SIGMA), fit.expected(y, SIGMA))
    for network in (lambda x, n: 0 * ones(x, n), ones):  # the posterior mean, and with it the scale of the network's output
        expected = exact.denoise(network, y, SIGMA)[box(start, size)]
        torch.testing.assert_close(piece.denoise(network, y[box(start, size)], SIGMA), expected, rtol=1e-4, atol=1e-5)
    if start[0] == 0:  # where everybody has air
        found = piece.denoise(lambda x, n: 1e3 * ones(x, n), y[box(start, size)], SIGMA)
        mean = exact.expected(y, torch.tensor([1e6, 1e6]))[box(start, size)]
        torch.testing.assert_close(found[:, :, :1], mean[:, :, :1], rtol=1e-4, atol=1e-4)


def test_the_network_sees_the_centred_piece_and_the_estimate() -> None:
    fit, y, seen = gaussian(2, 1, 3), noisy(), []
    start, size = (8, 16, 0), (8, 8, 4)

    def network(x: Tensor, noise: Tensor) -> Tensor:
        seen.append(x)
        return ones(x, noise)

    fit.pieces().at(coordinates(SHAPE, start, size).expand(2, -1, -1, -1, -1)).denoise(network, y[box(start, size)], SIGMA)
    independent(fit).denoise(network, y, SIGMA)
    torch.testing.assert_close(seen[0][:, 1], seen[1][:, 1][box(start, size)], rtol=1e-4, atol=1e-5)
    unit = (fit.statistics.residual.mean() + SIGMA**2).sqrt() / (independent(fit).statistics.residual.mean() + SIGMA**2).sqrt()
    torch.testing.assert_close(seen[0][:, 0] * unit.view(-1, 1, 1, 1), seen[1][:, 0][box(start, size)], rtol=1e-4, atol=1e-5)


def test_pieces_are_seen_through_the_fit_without_their_person() -> None:
    fit, y = gaussian(1, 1, 2), noisy()
    where = torch.cat([coordinates(SHAPE, start, (8, 8, 4)) for start in ((0, 0, 0), (8, 16, 4), (2, 4, 2), (8, 0, 0))])
    piece = fit.held_out([2, 1]).pieces().at(where)  # two pieces of each of two scans
    parts = torch.cat(
        [y[row // 2 : row // 2 + 1][box(s, (8, 8, 4))] for row, s in enumerate(((0, 0, 0), (8, 16, 4), (2, 4, 2), (8, 0, 0)))]
    )
    found = piece.denoise(ones, parts, SIGMA[[0, 0, 1, 1]])
    for row, (fold, start) in enumerate(((1, (0, 0, 0)), (1, (8, 16, 4)), (0, (2, 4, 2)), (0, (8, 0, 0)))):
        whole = independent(fit, fold).denoise(ones, y[row // 2 : row // 2 + 1], SIGMA[row // 2 : row // 2 + 1])
        torch.testing.assert_close(found[row : row + 1], whole[box(start, (8, 8, 4))], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1])
def test_the_weight_is_that_of_whole_volumes(level: int) -> None:
    fit, sigma = gaussian(2, 1, 3).coarse(level), torch.logspace(-3, 1, 9)
    variance = independent(gaussian(2, 1, 3)).coarse(level).statistics.residual.double()
    expected = torch.stack([1 / (s**2 * variance / (variance + s**2)).mean() for s in sigma.double()])
    torch.testing.assert_close(fit.pieces().weight(sigma).double(), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(fit.held_out([0]).pieces().weight(sigma), fit.pieces().weight(sigma))


NETWORKS = {
    "one resolution": {"channels": [8]},
    "two": {"channels": [8, 8]},
    "two Haar levels": {"channels": [8], "haar_levels": 2},
    "plain": {"channels": [8, 8], "haar_levels": 0},
    "places": {"channels": [8], "haar_levels": 0, "place": {"grid": [2, 3, 2]}},
}


def config(name: str, **settings: Any) -> Any:
    return wavelet_unet3d.Config.model_validate({"norm": "pixel", **NETWORKS[name], **settings})


def awake(made_of: Any, inputs: int) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = made_of.build(inputs)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3)
    return module.requires_grad_(False)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("levels", "rank_level", "rank"), [(0, 0, 2), (2, 1, 3)])
def test_the_flow_of_a_piece_is_what_its_voxels_go_through_in_the_whole_volume(levels: int, rank_level: int, rank: int, place: Any) -> None:
    fit, x, (start, size) = gaussian(levels, rank_level, rank), noisy(), place
    flow, here = fit.pieces().at(coordinates(SHAPE, start, size).expand(2, -1, -1, -1, -1)).flow_map, box(start, size)
    exact, to = independent(fit).flow_map, torch.tensor([0.0, 0.2])
    assert flow is not None and exact is not None
    torch.testing.assert_close(flow(x[here], SIGMA, to), exact(x, SIGMA, to)[here], rtol=1e-4, atol=1e-5)
    assert torch.equal(flow(x[here], SIGMA, SIGMA), x[here]), "what goes nowhere stays, bit for bit"
    middle = (SIGMA + to) / 2
    torch.testing.assert_close(flow(flow(x[here], SIGMA, middle), middle, to), flow(x[here], SIGMA, to), rtol=1e-4, atol=1e-5)


GOAL = ends(lambda sigma: 0.3 if sigma > 0.1 else 0.0)
"""Where jumps end."""


def test_jumps_of_patches_are_those_of_the_volume_where_the_network_sees_nothing_around_them() -> None:
    fit, x = gaussian(2, 1, 3), noisy()
    start, size = (8, 16, 0), (8, 8, 4)
    to, left = torch.tensor([0.0, 0.3]), torch.tensor([0.0, 0.3 / 0.7]).view(2, 1, 1, 1, 1)

    def network(x: Tensor, noise: Tensor) -> Tensor:
        return x[:, :1].sin()  # of a voxel alone

    made_of = config("plain")
    d = patches.Config(edge=4).denoiser(network, Jumping(fit, GOAL), made_of)(x, SIGMA)  # type: ignore[arg-type]
    given = Given(coordinates(SHAPE, start, size).expand(2, -1, -1, -1, -1))
    view = patches.Config(edge=size)  # type: ignore[arg-type]
    jump = Jump(lambda pieces: view.of_examples(network, pieces), fit)
    found = jump(x[box(start, size)], SIGMA, to, given)
    torch.testing.assert_close(found, (d + left * (x - d))[box(start, size)], rtol=1e-4, atol=1e-5)
    surrounding = fit.pieces().at(given.channels)  # type: ignore[arg-type]
    assert surrounding.flow_map is not None
    correction = surrounding.denoise(network, x[box(start, size)], SIGMA) - surrounding.expected(x[box(start, size)], SIGMA)
    expected = surrounding.flow_map(x[box(start, size)], SIGMA, to) + (1 - left) * correction
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(jump(x[box(start, size)], SIGMA, SIGMA, given), x[box(start, size)])


@pytest.mark.parametrize("jumps", [False, True])
@pytest.mark.parametrize("tile", [4, (16, 8, 4), (64, 4, 64)])
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_equal_the_whole_volume(name: str, fitted: bool, tile: Any, jumps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of = config(name)
    preconditioner: Any = gaussian(2, 1, 3) if fitted else edm.Config().blank(SHAPE, 1)
    preconditioner = Jumping(preconditioner, GOAL) if jumps else preconditioner
    network = awake(made_of, (2 if fitted else 1) + 3)
    y = noisy()

    def denoise(tile: Any) -> Tensor:
        return patches.Config(edge=4, tile=tile).denoiser(network, preconditioner, made_of)(y, SIGMA)

    at_once = denoise(None)
    torch.testing.assert_close(denoise(tile), at_once, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(patches, "reach", lambda _: ((0, 0, 0), (0, 0, 0)))
    assert (denoise(tile) - at_once).abs().max() > 1e-2, "without what is around them tiles differ"


def test_tiles_can_be_differentiated_and_take_what_is_given() -> None:
    made_of = config("one resolution", haar_levels=0)
    network, y = awake(made_of, 1 + 2 + 3), noisy().requires_grad_()
    given = Given(torch.randn(2, 2, *SHAPE))
    results = []
    for tile in (None, 8):
        x0 = patches.Config(edge=4, tile=tile).denoiser(network, edm.Config().blank(SHAPE, 1), made_of)(y, SIGMA, given)
        results.append((x0, torch.autograd.grad(x0.square().sum(), y)[0]))
    for at_once, tiled in zip(*results, strict=True):
        torch.testing.assert_close(tiled, at_once, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("settings", "before", "behind"), [
    ({"channels": [8], "haar_levels": 0}, 8, 8),  # first and last layer, and two convolutions in each of three blocks
    ({"channels": [8], "haar_levels": 1}, 16, 16),
    ({"channels": [8, 8], "haar_levels": 0}, 20, 20),  # 3 (2 at half the edge), 2 * 6 and 1, 3; to multiples of 2
    ({"channels": [8], "haar_levels": 0, "residual_blocks": 2}, 12, 12),
])  # fmt: skip
def test_how_far_a_network_sees_is_what_its_layers_add_up_to(settings: Any, before: int, behind: int) -> None:
    made_of = wavelet_unet3d.Config.model_validate({"norm": "pixel", **settings})
    assert reach.reach(made_of) == ((before,) * 3, (behind,) * 3)


class Still(nn.Module):
    """An embedding in double precision, of nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, noise: Tensor) -> Tensor:
        return torch.zeros(len(noise), self.width, dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_lies_just_within_reach_counts_and_what_is_beyond_does_not(name: str) -> None:
    made_of = config(name)
    network, ((before, _, _), (behind, _, _)), stride = awake(made_of, 1 + 3 * made_of.placed), reach.reach(made_of), made_of.strides[0]
    first = 32 * stride
    edges = made_of.multiples[1:]
    x = torch.randn(1, 1 + 3 * made_of.placed, 64 * stride, *edges, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network.double()
    network.embed_noise = Still(made_of.embedding)

    def block(changed: Tensor) -> Tensor:
        return network(changed, torch.zeros(1))[:, :, first : first + stride]  # type: ignore[no-any-return]

    right = block(x)
    for low, counts in (
        (first - before, True),
        (first - before - stride, False),
        (first + stride + behind - stride, True),
        (first + stride + behind, False),
    ):
        changed = x.clone()
        changed[:, 0, low : low + stride] += 100.0
        assert bool((block(changed) != right).any()) is counts


def test_a_network_that_sees_everything_is_found_out() -> None:
    with pytest.raises(ValueError, match="sees all of a volume"):
        reach.reach(wavelet_unet3d.Config(channels=(8,), haar_levels=0))


def scan(shape: Shape3 = (20, 16, 12)) -> VolumeScan:
    volume = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 1.5 - 0.5
    volume[: shape[0] // 2] = -1.0
    return VolumeScan(shape, lambda: volume)


def starts(view: patches.Config, aligned: Shape3, count: int) -> list[list[int]]:
    found = []
    cut = view.cut(whole.Config().cut, aligned)  # type: ignore[arg-type]
    for key in range(count):
        example = cut(scan(), 7, "train", key)
        assert example.given.channels is not None
        where = ((example.given.channels[0, :, 0, 0, 0] + 1) * torch.tensor([20, 16, 12]) / 2).long().tolist()
        assert torch.equal(example.x_BCXYZ[0, 0], scan().whole()[box(tuple(where), view.edge)])  # type: ignore[arg-type]
        assert torch.equal(example.given.channels, coordinates((20, 16, 12), tuple(where), view.edge))  # type: ignore[arg-type]
        found.append(where)
    return found


def test_patches_come_from_everywhere_and_are_aligned() -> None:
    found = torch.tensor(starts(patches.Config(edge=(8, 8, 4)), (4, 2, 4), 400))
    assert (found % torch.tensor([4, 2, 4]) == 0).all()
    assert [sorted(set(line.tolist())) for line in found.T] == [[0, 4, 8, 12], [0, 2, 4, 6, 8], [0, 4, 8]]
    # Voxels at a border are in nearly half as many patches as those in the middle, and not in a fourth as at places drawn evenly.
    assert (found[:, 0] == 0).float().mean() > 0.2 and (found[:, 0] == 12).float().mean() > 0.2
    assert starts(patches.Config(edge=(8, 8, 4)), (4, 2, 4), 5) == found[:5].tolist()


def test_patches_with_enough_foreground_are_looked_for() -> None:
    def shares(least: float) -> list[float]:
        cut = patches.Config(edge=4, foreground=least).cut(whole.Config().cut, (4, 4, 4))  # type: ignore[arg-type]
        return [float((cut(scan(), 0, key).x_BCXYZ > -0.98).float().mean()) for key in range(60)]

    assert sum(share < 0.9 for share in shares(0.0)) > 15
    assert sum(share < 0.9 for share in shares(0.9)) <= 2, "8 places are tried, and then it is air after all"


def test_patches_of_one_scan_have_the_mean_of_their_losses() -> None:
    view, made_of = patches.Config(edge=(8, 8, 4), per_scan=3), config("one resolution")
    model = ExpertModel(made_of, view)
    fit, network = gaussian(1, 1, 2), awake(made_of, 2 + 3)
    example = model.cut(whole.Config().cut, fit.config)(scan(SHAPE), 0, 1)  # type: ignore[arg-type]
    x, where = example.x_BCXYZ, example.given.channels
    assert where is not None and x.shape == (1, 1, *model.piece(SHAPE, fit.config)) == (1, 1, 24, 8, 4)
    other = torch.cat([x, -x]), Given(torch.cat([where, where]))
    together = model.of_examples(network, fit.held_out([0, 1]))(other[0], SIGMA, other[1])
    for row in range(2):
        for number in range(3):
            own = slice(8 * number, 8 * number + 8)
            piece, known = fit.held_out([row]).pieces().at(where[:, :, own]), knowing(network, Given(where[:, :, own]))
            expected = piece.denoise(known, other[0][row : row + 1, :, own], SIGMA[row : row + 1])
            torch.testing.assert_close(together[row : row + 1, :, own], expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_cut_is_refused() -> None:
    local, gauss = config("two"), Gaussian(levels=3, rank_level=1)
    for network in (wavelet_unet3d.Config(), unet3d.Config()):
        with pytest.raises(ValueError, match=r"needs the whole volume.*use wavelet_unet3d with norm pixel"):
            ExpertModel(network, patches.Config()).inputs(gauss)
    with pytest.raises(ValueError, match=r"view.edge is \[12, 12, 12\], but network and preconditioner need multiples of \[8, 8, 8\]"):
        ExpertModel(local, patches.Config(edge=12)).piece((64, 64, 64), gauss)  # type: ignore[arg-type]
    assert ExpertModel(local, patches.Config(edge=12), 1).piece((64, 64, 48), gauss) == (12, 12, 12)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"view.tile is \[10, 16, 16\]"):
        ExpertModel(local, patches.Config(edge=16, tile=(10, 16, 16))).piece((64, 64, 64), gauss)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the last one must end with the volume"):
        ExpertModel(local, patches.Config(edge=16)).piece((64, 60, 64), gauss)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not told where voxels are by view.kind 'whole'; set view.place true"):
        ExpertModel(config("places"), whole.Config()).inputs(gauss)
    assert ExpertModel(config("places"), whole.Config(place=True)).inputs(gauss) == 2
