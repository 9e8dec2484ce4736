"""The baseline of translations: a CycleGAN of volumes, trained from two groups of scans without pairs.

Two generators G: A -> B and F: B -> A, and a discriminator of patches for each group (Zhu et al. 2017, with its least-squares loss, cycle
weight 10 and identity weight 5). A generator adds to its input what two halvings of the edge see, and begins as the identity. For volumes
of 4 mm.

Legend: B batch, C channel, X Y Z voxels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from volgen.core.rng import permutation, seeded

CYCLE, IDENTITY = 10.0, 5.0
BETAS = (0.5, 0.999)
MULTIPLE = 4
"""What edges of volumes are multiples of: two halvings."""


class Translator(nn.Module):
    """A volume in [-1, 1] and what changes in it.

    Args:
        channels: width of the first features; twice as many after each halving.
        blocks: residual blocks at the coarsest resolution.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.down = nn.Sequential(
            nn.Conv3d(1, channels, 3, padding=1), nn.InstanceNorm3d(channels), nn.ReLU(),
            nn.Conv3d(channels, 2 * channels, 3, 2, 1), nn.InstanceNorm3d(2 * channels), nn.ReLU(),
            nn.Conv3d(2 * channels, wide, 3, 2, 1), nn.InstanceNorm3d(wide), nn.ReLU(),
        )  # fmt: skip
        self.middle = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(wide, wide, 3, padding=1), nn.InstanceNorm3d(wide), nn.ReLU(), nn.Conv3d(wide, wide, 3, padding=1),
                nn.InstanceNorm3d(wide),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv3d(wide, 2 * channels, 3, padding=1), nn.InstanceNorm3d(2 * channels), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv3d(2 * channels, channels, 3, padding=1), nn.InstanceNorm3d(channels), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Conv3d(channels, 1, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x_BCXYZ: Tensor) -> Tensor:
        """[B, 1, X, Y, Z] -> the same; edges are multiples of 4."""
        h = self.down(x_BCXYZ)
        for block in self.middle:
            h = h + block(h)
        changed: Tensor = x_BCXYZ + self.last(self.up(h))
        return changed


def critic(channels: int) -> nn.Module:
    """A discriminator of patches: [B, 1, X, Y, Z] -> a number for each."""
    return nn.Sequential(
        nn.Conv3d(1, channels, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv3d(channels, 2 * channels, 4, 2, 1),
        nn.InstanceNorm3d(2 * channels), nn.LeakyReLU(0.2), nn.Conv3d(2 * channels, 1, 3, padding=1),
    )  # fmt: skip


@dataclass(frozen=True)
class CycleGan:
    """Both directions, trained.

    Attributes:
        to_b: A -> B.
        to_a: B -> A.
    """

    to_b: nn.Module
    to_a: nn.Module


def train_cyclegan(
    a: Sequence[Tensor], b: Sequence[Tensor], *, steps: int, channels: int, blocks: int, rate: float, seed: int, device: torch.device,
    done: Callable[[], None] = lambda: None,
) -> CycleGan:  # fmt: skip
    """A CycleGAN of two groups of volumes [1, X, Y, Z] in [-1, 1]; each step sees one of either, mirrored every other time.

    Args:
        a: one group.
        b: the other.
        steps: steps of Adam, on the generators and on the critics in turn.
        channels: width of all networks.
        blocks: residual blocks of the generators.
        rate: learning rate; it falls to 0 over the second half.
        seed: seed of weights and order.
        device: where it is trained.
        done: called after each step.
    """
    with seeded(seed, "cyclegan"):
        to_b, to_a = Translator(channels, blocks).to(device), Translator(channels, blocks).to(device)
        of_a, of_b = critic(channels).to(device), critic(channels).to(device)
    makers = torch.optim.Adam(itertools.chain(to_b.parameters(), to_a.parameters()), lr=rate, betas=BETAS)
    judges = torch.optim.Adam(itertools.chain(of_a.parameters(), of_b.parameters()), lr=rate, betas=BETAS)
    last = max(steps, 1)
    slopes = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: min(1.0, 2.0 * (1.0 - step / last))) for each in (makers, judges)]
    for step in range(steps):
        x_a, x_b = (_drawn(group, step, seed, name).to(device) for name, group in (("a", a), ("b", b)))
        fake_b, fake_a = to_b(x_a), to_a(x_b)
        for judge in (of_a, of_b):
            judge.requires_grad_(False)
        cycle = functional.l1_loss(to_a(fake_b), x_a) + functional.l1_loss(to_b(fake_a), x_b)
        same = functional.l1_loss(to_a(x_a), x_a) + functional.l1_loss(to_b(x_b), x_b)
        fooled = (of_b(fake_b) - 1).square().mean() + (of_a(fake_a) - 1).square().mean()
        makers.zero_grad()
        (fooled + CYCLE * cycle + IDENTITY * same).backward()
        makers.step()
        for judge in (of_a, of_b):
            judge.requires_grad_(True)
        told = sum(
            (judge(real) - 1).square().mean() + judge(fake.detach()).square().mean()
            for judge, real, fake in ((of_a, x_a, fake_a), (of_b, x_b, fake_b))
        )
        judges.zero_grad()
        (0.5 * told).backward()
        judges.step()
        for slope in slopes:
            slope.step()
        done()
    return CycleGan(to_b.eval(), to_a.eval())


def _drawn(group: Sequence[Tensor], step: int, seed: int, name: str) -> Tensor:
    """One volume of a group, each once before any comes again; every other one mirrored, left for right."""
    order = permutation(len(group), seed, name, step // len(group))
    x_BCXYZ = group[order[step % len(group)]][None]
    return x_BCXYZ.flip(2) if step % 2 else x_BCXYZ
