"""A hierarchical generator and its critics, in the manner of HA-GAN (Sun et al. 2022).

A latent becomes features at a quarter of the edges; of these, one head makes a small volume, and another a slab of the volume at full
resolution. Each has a critic: one sees whole heads that are small, the other detail in slabs, so that the generator never makes a whole
volume at full resolution in training, while a volume is drawn as a whole. HA-GAN's encoder is left out.

Critics are normalised by the largest singular value of each weight (Miyato et al. 2018), which is computed and not remembered; so what is
trained has no state but its weights, and examples never meet.

Legend: B batch, C channels, Z latent numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from volgen.core.protocols import Shape3
from volgen.models.convolution import wrong_in_bf16

COARSE = 4
"""Voxels of the volume along an edge of a voxel of the small one."""
SEED = 8
"""Voxels of the volume along an edge of what a latent becomes first."""
SLOPE = 0.2
SMALLEST = 1e-12


class HierarchicalGenerator(nn.Module):
    """Makes a volume of standard normal numbers.

    Args:
        shape: edges of a volume, multiples of 8.
        latent: Z.
        width: channels of features; coarser ones have twice as many, the finest half.
        groups: groups of the normalisation, which divide the widths.
    """

    def __init__(self, shape: Shape3, latent: int, width: int, groups: int) -> None:
        super().__init__()
        self.latent, self.seed, wide = latent, [edge // SEED for edge in shape], 2 * width
        self.start = nn.Linear(latent, wide * math.prod(self.seed))
        self.trunk = nn.Sequential(_block(wide, wide, groups), _doubled(), _block(wide, width, groups))
        self.small = nn.Sequential(_block(width, width, groups), nn.Conv3d(width, 1, 1))
        self.fine = nn.Sequential(
            _doubled(), _block(width, width, groups), _doubled(), _block(width, width // 2, groups), nn.Conv3d(width // 2, 1, 1)
        )  # fmt: skip

    def forward(self, normal_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
        """Volumes [B, 1, X, Y, Z] from as many standard normal numbers as are needed; ``noise_B`` is not looked at."""
        volume: Tensor = self.fine(self.features(normal_BCXYZ.flatten(1)[:, : self.latent])).tanh()
        return volume

    def features(self, latent_BZ: Tensor) -> Tensor:
        """Features at a quarter of the edges."""
        found: Tensor = self.trunk(self.start(latent_BZ).view(len(latent_BZ), -1, *self.seed))
        return found


class Adversaries(nn.Module):
    """The generator and both critics, with one pass that says what each of them shall make small.

    Args:
        generator: makes volumes.
        width: channels of critics at their finest resolution.
        slab: part of the volume along its last edge that a slab has.
    """

    def __init__(self, generator: HierarchicalGenerator, width: int, slab: int) -> None:
        super().__init__()
        self.generator, self.slab = generator, slab
        self.of_small, self.of_slabs = Critic(width, 2), Critic(width, 4)

    def forward(self, normal_BCXYZ: Tensor, noise_B: Tensor, real: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """Volumes; or, beside real ones, the loss [B] of each example.

        Args:
            normal_BCXYZ: standard normal numbers.
            noise_B: not looked at.
            real: clean volumes [B, 1, X, Y, Z].
            place: where the slab of each begins, in [0, 1), [B].
        """
        if real is None or place is None:
            volume: Tensor = self.generator(normal_BCXYZ, noise_B)
            return volume
        features = self.generator.features(normal_BCXYZ.flatten(1)[:, : self.generator.latent])
        edge = features.shape[-1]
        thick = max(1, edge // self.slab)
        first_B = (place * (edge - thick + 1)).long().clamp(max=edge - thick)  # just below 1, a place may be rounded to 1
        made, true = _slabs(features, first_B, thick), _slabs(real, COARSE * first_B, COARSE * thick)
        small, slabs = self.generator.small(features).tanh(), self.generator.fine(made).tanh()
        return _contest(self.of_small, functional.avg_pool3d(real, COARSE), small) + _contest(self.of_slabs, true, slabs)


class Critic(nn.Module):
    """A score [B] of volumes of any size: high for what looks real.

    Args:
        width: channels at the finest resolution.
        halvings: how often edges are halved; channels double with the first two of them.
    """

    def __init__(self, width: int, halvings: int) -> None:
        super().__init__()
        widths = [width * 2 ** min(level, 2) for level in range(halvings + 1)]
        self.first = _Normalised(1, widths[0], 1)
        self.halved = nn.ModuleList([_Normalised(a, b, 2) for a, b in itertools.pairwise(widths)])
        self.last = _Normalised(widths[-1], 1, 1)

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """The mean score of all places."""
        x = functional.leaky_relu(self.first(x_BCXYZ), SLOPE)
        for layer in self.halved:
            x = functional.leaky_relu(layer(x), SLOPE)
        score_B: Tensor = self.last(x).float().mean(dim=(1, 2, 3, 4))
        return score_B


class _Normalised(nn.Module):
    """A 3^3 convolution whose weight, as a matrix, has a largest singular value of 1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        plain = nn.Conv3d(inputs, outputs, 3)
        self.weight, self.bias, self.stride = plain.weight, plain.bias, stride

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.weight.float()
            matrix = weight.flatten(1)
            with torch.no_grad():
                left = torch.linalg.eigh(matrix @ matrix.T)[1][:, -1]
                right = functional.normalize(matrix.T @ left, dim=0, eps=SMALLEST)
            weight = weight / (left @ matrix @ right).clamp(min=SMALLEST)
        if wrong_in_bf16(x, x.shape[2:], self.stride):
            with torch.autocast("cpu", enabled=False):
                return functional.conv3d(x.float(), weight, self.bias, stride=self.stride, padding=1)
        return functional.conv3d(x, weight, self.bias, stride=self.stride, padding=1)


class _Convolution(nn.Conv3d):
    """A 3^3 convolution with zero padding, in fp32 where another type would be wrong."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        if wrong_in_bf16(input, input.shape[2:]):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())
        return super().forward(input)


class _Turned(torch.autograd.Function):
    """The identity, whose gradient of each example is that of a generator where what came was that of a critic."""

    @staticmethod
    def forward(context: Any, x: Tensor, scores: list[Tensor]) -> Tensor:
        context.scores = scores
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        # A critic descends softplus(s), of slope sigmoid(s); the generator softplus(-s), of slope -sigmoid(-s): their ratio is -exp(-s).
        (score_B,) = context.scores
        factor = -torch.exp(-score_B)
        return gradient[0] * factor.view(-1, *[1] * (gradient[0].dim() - 1)).to(gradient[0].dtype), None


def _contest(critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """The loss [B] of a critic (Goodfellow et al. 2014), through which the generator gets the gradient of its own, the non-saturating one.

    So one pass and one backward pass train both, with one optimiser, and their weights move at the same time (Mescheder et al. 2018).
    """
    scores: list[Tensor] = []
    turned: Tensor = _Turned.apply(made, scores)  # type: ignore[no-untyped-call]
    score_B = critic(turned)
    scores.append(score_B.detach())  # with its graph, in which this list is, no step's graph would ever be freed
    loss_B: Tensor = functional.softplus(-critic(real)) + functional.softplus(score_B)
    return loss_B


def _slabs(x_BCXYZ: Tensor, first_B: Tensor, thick: int) -> Tensor:
    """``thick`` voxels along the last edge of each example, from its own first one on."""
    index = first_B[:, None, None, None, None] + torch.arange(thick, device=x_BCXYZ.device)
    return x_BCXYZ.gather(4, index.expand(*x_BCXYZ.shape[:4], thick))


def _block(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    return nn.Sequential(_Convolution(inputs, outputs), nn.GroupNorm(groups, outputs), nn.LeakyReLU(SLOPE))


def _doubled() -> nn.Module:
    return nn.Upsample(scale_factor=2)


def energy_score(x_BCXYZ: Tensor, draws_NBCXYZ: Sequence[Tensor]) -> Tensor:
    """The energy score [B] of volumes under a generator (Gneiting and Raftery 2007, equation 21), from two draws of it for each.

    E|G - x| - E|G - G'| / 2 with root mean square distances: of all generators smallest, on average over people, for the one that draws as
    people are.
    """
    one, other = draws_NBCXYZ

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean(dim=(1, 2, 3, 4)).sqrt()

    return (apart(one, x_BCXYZ) + apart(other, x_BCXYZ) - apart(one, other)) / 2.0
