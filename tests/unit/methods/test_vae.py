"""The autoencoder with its Gaussian: closed forms of the divergence and of the fit, and no compression that is none."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from volgen.methods.vae import Config
from volgen.models.autoencoder import Autoencoder

SHAPE = (8, 8, 8)


def autoencoder(rank: int = 3) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(Config(channels=(4, 8), latent_channels=2, norm_groups=4), SHAPE, rank)


def test_losses_are_the_error_of_the_reconstruction_and_the_divergence_of_the_posterior() -> None:
    network, x = autoencoder(), torch.rand(3, 1, *SHAPE) * 2 - 1
    posterior = torch.randn(3, *network.latent)
    with torch.no_grad():
        lost, nats = network(x, torch.zeros(3), posterior=posterior).T
        mean, deviation = network.net.encode(x)
        decoded = network.net.decode(network.encode(x, posterior).view(-1, *network.latent))
    torch.testing.assert_close(lost, (decoded - x).abs().mean(dim=(1, 2, 3, 4)))
    own, normal = torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(nats, torch.distributions.kl_divergence(own, normal).sum(dim=(1, 2, 3, 4)) / 512)
    torch.testing.assert_close(network.encode(x, 0 * posterior).view_as(mean), mean)


def test_the_gaussian_has_the_mean_and_the_variances_of_latents_and_finds_their_components() -> None:
    """Latents along two directions with little noise: the components span them, and what is left is the noise."""
    network, random = autoencoder(), torch.Generator().manual_seed(1)
    size = len(network.get_buffer("mean"))
    directions = torch.linalg.qr(torch.randn(size, 2, generator=random))[0].T * torch.tensor([[5.0], [3.0]])
    latent = 1.0 + torch.randn(1000, 2, generator=random) @ directions + 0.1 * torch.randn(1000, size, generator=random)
    network.fit(latent)
    mean, components, deviation = (network.get_buffer(name) for name in ("mean", "components", "deviation"))
    torch.testing.assert_close(mean, latent.mean(dim=0))
    torch.testing.assert_close(components.square().sum(dim=0) + deviation.square(), latent.var(dim=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(components[:2].T @ components[:2], directions.T @ directions, atol=0.3, rtol=0)
    assert float(components[2].norm()) < 0.3 and abs(float(deviation.mean()) - 0.1) < 0.01
    drawn = network._sample(torch.randn(20000, size + 3, generator=random))
    torch.testing.assert_close(drawn.mean(dim=0), mean, atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.var(dim=0), latent.var(dim=0), rtol=0.15, atol=0.02)


def test_few_latents_leave_the_gaussian_as_it_is_and_fewer_than_its_rank_have_fewer_components() -> None:
    network = autoencoder(rank=8)
    network.fit(torch.randn(1, 2 * 4**3))
    assert torch.equal(network.get_buffer("deviation"), torch.ones(2 * 4**3))
    network.fit(torch.randn(6, 2 * 4**3))
    norms = network.get_buffer("components").norm(dim=1)
    assert (norms[:3] > 0).all() and (norms[3:] == 0).all()


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="is no compression"):
        Config(channels=(8, 8), latent_channels=8)
    with pytest.raises(ValidationError, match="does not divide"):
        Config(channels=(8, 12), norm_groups=8)
