"""The residual U-Net inside our networks, of volumes or of slices: normalisation, FiLM in every block, weights stored as matrices.

Normalised over the channels of each voxel, it has no operation over space but convolutions: it is *local*, and what it makes of a voxel
depends on a neighbourhood of it and on nothing else. Then its tensors have channels last in memory, where each voxel's lie together.

Legend: B batch, C channel, E embedding, ... two or three axes in space.
"""

from __future__ import annotations

import math
from itertools import repeat
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from volgen.core.config import Config
from volgen.core.limits import MAX_BLOCKS, MAX_LEVELS, MAX_WIDTH
from volgen.models.convolution import Conv
from volgen.models.haar import low_pass

FREQUENCIES = 16
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory formats with channels last, of slices and of volumes."""
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]


class ResidualUNetConfig(Config):
    """What every network around a :class:`ResidualUNet` can choose."""

    last: ClassVar[str] = "unembed_volume"
    """Name of the module whose weights the output is a multiple of."""

    haar_levels: int = Field(default=1, ge=0, le=MAX_LEVELS)
    """Full Haar levels in front of the network: each divides the edges by 2 and multiplies the channels by 8 (by 4 in slices). 0: none, a
    plain U-Net on voxels."""
    channels: tuple[Width, ...] = Field(default=(32, 64, 96), min_length=1, max_length=MAX_LEVELS)
    """Width of each resolution, finest first; each next one has half the edge."""
    residual_blocks: int = Field(default=1, ge=1, le=MAX_BLOCKS)
    """Residual blocks at each resolution, on the way down and again on the way up."""
    norm: Literal["group", "pixel"] = "group"
    """What is normalised together: groups of channels over the whole volume (Wu & He 2018), or the channels of each voxel (layer
    normalisation, Ba et al. 2016), for which a piece of a volume is as good as all of it: experts of patches need that."""
    norm_groups: PositiveInt = 8
    """Groups of the group normalisation; must divide every width. ``norm: pixel`` has none."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Chance with which training leaves out a feature of a residual block, before its last convolution, in all of an example's voxels
    (:mod:`volgen.models.dropout`): for few people and many steps."""

    @property
    def embedding(self) -> int:
        """Width of the embedding of the noise level, to which what a network is told is added."""
        return 4 * self.channels[0]

    @property
    def features(self) -> int:
        """How many features can be left out: those of all residual blocks."""
        return 2 * self.residual_blocks * sum(self.channels) + self.channels[-1]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.norm == "group" and any(width % self.norm_groups for width in self.channels):
            raise ValueError(f"norm_groups {self.norm_groups} does not divide every width of {list(self.channels)}")
        return self


class ResidualUNet(nn.Module):
    """``forward(x, embedding_BE) -> output``; what makes the embedding is the caller's, but its part for the noise is here.

    Args:
        dims: 2 for slices, 3 for volumes.
        inputs: channels in.
        outputs: channels out.
        config: widths and blocks.
        checkpointing: whether blocks are computed again in the backward pass instead of kept.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, config: ResidualUNetConfig, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing, self.channels_last = checkpointing, config.norm == "pixel"
        widths = config.channels
        self.embedding = config.embedding
        # Names with "embed" keep a matrix out of Muon: the layers at the borders of a network belong to AdamW.
        self.embed_noise = FourierEmbedding(self.embedding)
        self.embed_volume = Conv(dims, inputs, widths[0])
        self.down, self.shrink, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

        def block(wide: int, width: int) -> Block:
            return Block(dims, wide, width, config)

        for level, width in enumerate(widths):
            if level:
                self.shrink.append(Conv(dims, widths[level - 1], width, stride=2))
            self.down.append(nn.ModuleList(block(width, width) for _ in range(config.residual_blocks)))
        for level in reversed(range(len(widths))):
            below = widths[min(level + 1, len(widths) - 1)]
            width = widths[level]
            blocks = [block(below + width if index == 0 else width, width) for index in range(config.residual_blocks)]
            self.up.append(nn.ModuleList(blocks))
        self.middle = block(widths[-1], widths[-1])
        repeated = [width for width in widths for _ in range(config.residual_blocks)]
        self._run_in_order = [*repeated, widths[-1], *reversed(repeated)]
        self.last_norm = _norm(config, widths[0])
        # An untrained network returns 0, so that the denoiser starts as its skip path.
        self.unembed_volume = Conv(dims, widths[0], outputs, zero=True)

    def forward(self, x: Tensor, embedding_BE: Tensor, first: Tensor | None = None, kept_BK: Tensor | None = None) -> Tensor:
        """[B, inputs, ...] -> [B, outputs, ...]; any edges, odd ones are padded inside. ``first`` is added to the first features.

        In training, features of residual blocks are multiplied by ``kept_BK``, those of one block after those of another.
        """
        kept = iter(kept_BK.to(x.dtype).split(self._run_in_order, dim=1)) if self.training and kept_BK is not None else repeat(None)
        embedding_BE = embedding_BE.to(x.dtype)
        h = self.embed_volume(x.to(memory_format=LAST[x.dim()]) if self.channels_last else x)
        if first is not None:
            h = h + first
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                h = self.shrink[level - 1](h)
            for block in blocks:  # type: ignore[attr-defined]
                h = self._run(block, h, embedding_BE, next(kept))
            skips.append(h)
        h = self._run(self.middle, h, embedding_BE, next(kept))
        for blocks in self.up:
            skip = skips.pop()
            if h.shape[2:] != skip.shape[2:]:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")[low_pass(skip.shape[2:], 0)]
            h = torch.cat([h, skip], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                h = self._run(block, h, embedding_BE, next(kept))
        return self.unembed_volume(functional.silu(self.last_norm(h)))  # type: ignore[no-any-return]

    def _run(self, block: nn.Module, h: Tensor, embedding_BE: Tensor, kept_BC: Tensor | None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, h, embedding_BE, kept_BC, use_reentrant=False)  # type: ignore[no-any-return]
        return block(h, embedding_BE, kept_BC)  # type: ignore[no-any-return]


class Block(nn.Module):
    """norm - SiLU - conv - norm - FiLM - SiLU (- dropout) - conv, with a residual path."""

    def __init__(self, dims: int, inputs: int, outputs: int, config: ResidualUNetConfig) -> None:
        super().__init__()
        self.norm1 = _norm(config, inputs)
        self.conv1 = Conv(dims, inputs, outputs)
        self.film = nn.Linear(config.embedding, 2 * outputs)
        self.norm2 = FilmNorm(outputs) if config.norm == "pixel" else nn.GroupNorm(config.norm_groups, outputs)
        # Blocks start as their residual path; training is then faster from the first step.
        self.conv2 = Conv(dims, outputs, outputs, zero=True)
        self.skip = Conv(dims, inputs, outputs, size=1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding_BE: Tensor, kept_BC: Tensor | None = None) -> Tensor:
        """[B, in, ...] -> [B, out, ...]."""
        h = self.conv1(functional.silu(self.norm1(x)))
        modulation = self.film(embedding_BE)
        if isinstance(self.norm2, FilmNorm):
            h = self.norm2(h, *modulation.chunk(2, dim=1))
        else:
            scale, shift = modulation.view(*modulation.shape, *[1] * (h.dim() - 2)).chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        h = functional.silu(h)
        if kept_BC is not None:
            h = h * kept_BC.view(*kept_BC.shape, *[1] * (h.dim() - 2))
        h = self.conv2(h)
        return self.skip(x) + h  # type: ignore[no-any-return]


def _norm(config: ResidualUNetConfig, channels: int) -> nn.Module:
    return PixelNorm(channels) if config.norm == "pixel" else nn.GroupNorm(math.gcd(config.norm_groups, channels), channels)


class PixelNorm(nn.Module):
    """Normalisation of each voxel over its channels, by torch's own layer norm: one pass over memory where channels come last in it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> the same, of mean 0 and standard deviation 1 over C, scaled and shifted."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]


class FilmNorm(nn.LayerNorm):
    """The same with a scale and a shift for each example, which layer norm applies, and takes the gradient of, in the same pass."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, elementwise_affine=False)

    def forward(self, x: Tensor, scale_BC: Tensor, shift_BC: Tensor) -> Tensor:  # type: ignore[override]
        """[B, C, ...] -> normalised over C, times 1 + scale, plus shift."""
        kind = torch.promote_types(x.dtype, torch.float32)  # which is what torch wants beside bf16
        rows = zip(x.movedim(1, -1).unbind(), 1 + scale_BC.to(kind), shift_BC.to(kind), strict=True)
        done = [functional.layer_norm(row, self.normalized_shape, scale, shift, self.eps) for row, scale, shift in rows]
        return (done[0][None] if len(done) == 1 else torch.stack(done)).movedim(-1, 1)


def beside(embedding_BE: Tensor, told_BE: Tensor | None) -> Tensor:
    """The embedding of the noise level, and of what the network is told if it is told anything."""
    return embedding_BE if told_BE is None else embedding_BE + told_BE


class FourierEmbedding(nn.Module):
    """Fixed Fourier features of a number of order 1 (log(sigma) / 4, or a place in [-1, 1]) and a two-layer perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, number_B: Tensor) -> Tensor:
        """[B] -> [B, width]."""
        # Periods from 4 (the whole axis of noise levels) down to 1/4.
        frequencies = 2 * math.pi * torch.logspace(-2, 2, FREQUENCIES, base=2.0, device=number_B.device)
        angles = number_B.float()[:, None] * frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))  # type: ignore[no-any-return]
