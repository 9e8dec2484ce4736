"""Latents as volumes: nothing is lost side by side, the scale is that of people, and pieces are decoded as the whole is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.models.autoencoder import CodecConfig
from volgen.models.latents import SIDE_BY_SIDE, LatentCodec, Latents, channels_of, latent_grid, side_by_side
from volgen.models.space import VOXELS
from volgen.operators.identity import Config as Identity
from volgen.sampling.decoded import Tangent


def codec(channels: int = 2) -> LatentCodec:
    torch.manual_seed(0)
    return LatentCodec(CodecConfig(channels=(4, 8), latent_channels=channels, norm_groups=4))


def people(count: int, edge: int = 8) -> Tensor:
    return torch.rand(count, 1, edge, edge, edge, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("channels", SIDE_BY_SIDE)
def test_channels_side_by_side_are_the_same_numbers_and_come_apart_again(channels: int) -> None:
    latent = torch.randn(3, channels, 2, 3, 4)
    volume = side_by_side(latent)
    assert tuple(volume.shape) == (3, 1, *latent_grid((4, 6, 8), 1, channels)) and math.prod(SIDE_BY_SIDE[channels]) == channels
    assert torch.equal(channels_of(volume, channels), latent)
    assert torch.equal(volume.flatten(1).sort().values, latent.flatten(1).sort().values), "an orthonormal map: white noise stays white"


def test_latents_of_the_people_who_were_measured_have_mean_0_and_variance_1_in_each_channel() -> None:
    network, x = codec(), people(6)
    network.measure(x[:, 0])
    z = channels_of(Latents(network).encode(x), 2).double()
    torch.testing.assert_close(z.mean(dim=(0, 2, 3, 4)), torch.zeros(2, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(dim=(0, 2, 3, 4), correction=0), torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)


def test_what_is_decoded_of_what_is_encoded_is_the_reconstruction() -> None:
    network, x = codec(), people(2)
    network.measure(people(5)[:, 0])
    space = Latents(network)
    with torch.no_grad():
        torch.testing.assert_close(space.decode(space.encode(x)), network(x, torch.zeros(2)), atol=1e-5, rtol=1e-4)
    assert VOXELS.encode(x) is x is VOXELS.decode(x)


def test_a_latent_depends_on_its_volume_alone_and_is_made_once_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = codec(), people(3)
    one = 2 * 4**3 * 4
    space, made = Latents(network, remembered=2 * one), []
    encode = network.net.encode
    monkeypatch.setattr(network.net, "encode", lambda x: made.append(len(x)) or encode(x))
    first = space.encode(x)
    assert torch.equal(space.encode(x[1:]), first[1:]) and made == [1, 1, 1], "the last two are known"
    assert torch.equal(space.encode(x[:1]), first[:1]) and len(made) == 4, "the first had to go"
    assert torch.equal(space.encode(x[[2, 0]]), first[[2, 0]]) and len(made) == 4
    assert torch.equal(Latents(network).encode(x[[2]]), first[[2]])


def test_latents_without_a_scale_are_refused() -> None:
    network = codec()
    network.get_buffer("deviation")[1] = 0.0
    with pytest.raises(ValueError, match="vary by"):
        Latents(network).check()
    network.get_buffer("deviation")[1] = math.nan
    with pytest.raises(ValueError, match="vary by"):
        Latents(network).check()


@pytest.mark.parametrize(("overlap", "off"), [(0.25, 0.08), (0.5, 0.05)])
def test_a_large_latent_is_decoded_piece_by_piece_and_blended(overlap: float, off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that sees one voxel around: pieces are right but for their borders, where they hardly count."""
    network = codec()
    torch.manual_seed(2)
    local, seen = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv3d(2, 1, 3, padding=1)), []

    def decode(latent: Tensor) -> Tensor:
        seen.append(tuple(latent.shape[2:]))
        made: Tensor = local(latent)
        return made

    monkeypatch.setattr(network.net, "decode", decode)
    z = side_by_side(torch.randn(1, 2, 12, 8, 20, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        whole, pieces = Latents(network).decode(z), Latents(network, tile=8, overlap=overlap).decode(z)
    assert seen[0] == (12, 8, 20) and len(seen) > 6 and set(seen[1:]) == {(8, 8, 8)}
    difference = (pieces - whole)[..., 2:-2, 2:-2, 2:-2]
    assert float(difference.square().mean().sqrt()) < off * float(whole.std())


def test_losses_are_the_errors_of_reconstructions_and_their_fine_detail() -> None:
    network, x = codec(), people(3)
    posterior = torch.randn(3, 2, 4, 4, 4)
    with torch.no_grad():
        voxels, detail, nats = network(x, torch.zeros(3), posterior=posterior).T
        mean, deviation = network.net.encode(x)
        error = network.net.decode(mean + deviation * posterior) - x
    torch.testing.assert_close(voxels, error.abs().mean(dim=(1, 2, 3, 4)))
    blocks = error.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).flatten(5)
    signs: list[Any] = [
        [(-1.0) ** sum((corner >> bit & 1) * (band >> bit & 1) for bit in range(3)) for corner in range(8)] for band in range(1, 8)
    ]
    coefficients = torch.einsum("...c,bc->...b", blocks, torch.tensor(signs)) / math.sqrt(8.0)
    torch.testing.assert_close(detail, coefficients.abs().mean(dim=(1, 2, 3, 4, 5)))
    own, normal = torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(nats, torch.distributions.kl_divergence(own, normal).sum(dim=(1, 2, 3, 4)) / 512)


@pytest.mark.parametrize("tile", [0, 2])
def test_a_decoder_has_a_derivative_also_where_pieces_are_blended(tile: int) -> None:
    """Of a group norm, an interpolation and blended pieces: that of differences, and its adjoint."""
    network = codec().double()
    network.measure(people(5)[:, 0].double())
    space = Latents(network, tile)
    random = torch.Generator().manual_seed(2)
    z, change = (torch.randn(1, 1, 4, 4, 8, generator=random, dtype=torch.float64) for _ in range(2))
    tangent = Tangent(Identity().build((8, 8, 8), torch.device("cpu")), space.decode, z)
    found, data = tangent.apply(change), torch.randn(1, 1, 8, 8, 8, generator=random)
    with torch.no_grad():
        secant = (space.decode(z + 0.05 * change) - space.decode(z - 0.05 * change)) / 0.1
    assert float((found - secant).norm() / secant.norm()) < 0.02
    torch.testing.assert_close((found * data).sum().double(), (change * tangent.adjoint(data)).sum(), atol=1e-4, rtol=1e-4)
