"""Variational autoencoders of volumes (Kingma and Welling 2014; MONAI's ``AutoencoderKL``), and one with a Gaussian over what it encodes.

What a standard normal prior decodes to is blurred or noise, because training people do not fill it. So a Gaussian is fitted to their
latents once the autoencoder is trained (ex-post density estimation, Ghosh et al. 2020), and volumes are decoded from that: mean,
components, and a deviation of each coefficient.

Legend: B batch, C latent channels, x y z edges of latents, d = C x y z, N latents, r components.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from volgen.core.config import Config
from volgen.core.limits import MAX_BLOCKS, MAX_LEVELS, MAX_WIDTH
from volgen.core.protocols import Shape3
from volgen.models.convolution import wrong_in_bf16


class CodecConfig(Config):
    """Sizes of encoder and decoder."""

    channels: tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...] = Field(default=(16, 32, 64), min_length=2, max_length=MAX_LEVELS)
    """Width of each resolution of the autoencoder, finest first; each has half the edges of the one before, and latents those of the
    last."""
    latent_channels: int = Field(default=4, ge=1, le=MAX_WIDTH)
    """Channels of latents."""
    residual_blocks: int = Field(default=1, ge=1, le=MAX_BLOCKS)
    """Residual blocks of the autoencoder at each resolution."""
    norm_groups: PositiveInt = 8
    """Groups of its group normalisation; must divide every width."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(width % self.norm_groups for width in self.channels):
            raise ValueError(f"norm_groups {self.norm_groups} does not divide every width of {list(self.channels)}")
        if self.latent_channels >= 8**self.halvings:
            raise ValueError(f"latent_channels {self.latent_channels} is no compression: less than {8**self.halvings}")
        return self

    @property
    def halvings(self) -> int:
        """How often edges are halved."""
        return len(self.channels) - 1

    def latent(self, shape: Shape3) -> tuple[int, int, int, int]:
        """Channels and edges of what is made of volumes of ``shape``, (C, x, y, z)."""
        x, y, z = (edge >> self.halvings for edge in shape)
        return self.latent_channels, x, y, z


class Codec(nn.Module, ABC):
    """Encoder and decoder of a variational autoencoder.

    Args:
        sizes: the sizes of both.
        checkpointing: whether activations are computed again.
    """

    def __init__(self, sizes: CodecConfig, checkpointing: bool = False) -> None:
        super().__init__()
        # Imported here: it takes seconds, and every command reads the configuration of methods.
        from monai.networks.nets import AutoencoderKL

        self.levels = len(sizes.channels)
        self.net = AutoencoderKL(
            spatial_dims=3, in_channels=1, out_channels=1, channels=sizes.channels, latent_channels=sizes.latent_channels,
            num_res_blocks=sizes.residual_blocks, norm_num_groups=sizes.norm_groups, attention_levels=(False,) * self.levels,
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False, use_checkpoint=checkpointing,
        )  # fmt: skip

    def forward(self, input_BCXYZ: Tensor, noise_B: Tensor, posterior: Tensor | None = None) -> Tensor:
        """What :meth:`run` says, in fp32 where another type would be wrong.

        Args:
            input_BCXYZ: what goes in.
            noise_B: not looked at.
            posterior: standard normal numbers [B, C, x, y, z], if the sampled latents of volumes are asked about.
        """
        if any(wrong_in_bf16(input_BCXYZ, [edge >> level for edge in input_BCXYZ.shape[2:]], 2) for level in range(self.levels)):
            with torch.autocast("cpu", enabled=False):
                return self.run(input_BCXYZ.float(), posterior)
        return self.run(input_BCXYZ, posterior)

    @abstractmethod
    def run(self, input_BCXYZ: Tensor, posterior: Tensor | None) -> Tensor:
        """What this autoencoder is asked."""

    def sampled(self, x_BCXYZ: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """What a reconstruction from a sample of each latent's posterior is off by, [B, 1, X, Y, Z], and what that posterior costs.

        Args:
            x_BCXYZ: clean volumes.
            posterior: standard normal numbers [B, C, x, y, z].

        Returns:
            Reconstructions less volumes; and the Kullback-Leibler divergence from the standard normal [B], in nats for each voxel.
        """
        mean, deviation = self.net.encode(x_BCXYZ)
        error_BCXYZ = (self.net.decode(mean + deviation * posterior) - x_BCXYZ).float()
        mean, deviation = mean.float(), deviation.float()
        nats_B = 0.5 * (mean**2 + deviation**2 - 2.0 * deviation.log() - 1.0).sum(dim=(1, 2, 3, 4))
        return error_BCXYZ, nats_B / x_BCXYZ[0].numel()


class Autoencoder(Codec):
    """Encoder, decoder, and a Gaussian of latents, which is the standard normal one before it is fitted.

    Args:
        sizes: the sizes of encoder and decoder.
        shape: edges of a volume, multiples of 2^(resolutions - 1).
        rank: components of the Gaussian.
        checkpointing: whether activations are computed again.
    """

    def __init__(self, sizes: CodecConfig, shape: Shape3, rank: int, checkpointing: bool = False) -> None:
        super().__init__(sizes, checkpointing)
        self.latent = sizes.latent(shape)
        size = math.prod(self.latent)
        for name, start in (("mean", torch.zeros(size)), ("components", torch.zeros(rank, size)), ("deviation", torch.ones(size))):
            self.register_buffer(name, start)

    def run(self, input_BCXYZ: Tensor, posterior: Tensor | None) -> Tensor:
        """Decodes samples of the Gaussian; or, of clean volumes, says what their encoding loses and costs.

        Args:
            input_BCXYZ: standard normal numbers, of which as many are used as are needed; or volumes.
            posterior: standard normal numbers [B, C, x, y, z] if volumes are to be encoded.

        Returns:
            Volumes; or, [B, 2], the mean absolute error of each reconstruction and the Kullback-Leibler divergence of its latent from
            the standard normal, in nats for each voxel.
        """
        if posterior is None:
            decoded: Tensor = self.net.decode(self._sample(input_BCXYZ.flatten(1)).view(-1, *self.latent))
            return decoded
        error_BCXYZ, nats_B = self.sampled(input_BCXYZ, posterior)
        return torch.stack([error_BCXYZ.abs().mean(dim=(1, 2, 3, 4)), nats_B], dim=1)

    def encode(self, x_BCXYZ: Tensor, posterior: Tensor) -> Tensor:
        """Latents [B, d] of clean volumes, samples of their posterior."""
        mean, deviation = self.net.encode(x_BCXYZ)
        latent: Tensor = mean + deviation * posterior
        return latent.flatten(1).float()

    def fit(self, latent_Nd: Tensor) -> None:
        """Fits the Gaussian to latents of people; of fewer than two it stays as it is.

        Components are the directions in which latents differ most, at most half as many as there are latents; what they leave of a
        coefficient's variance is the square of its deviation.
        """
        if len(latent_Nd) < 2:
            return
        state = self.state_dict()
        latent_Nd = latent_Nd.double()
        mean_d, rank = latent_Nd.mean(dim=0), min(len(state["components"]), len(latent_Nd) // 2)
        offset_Nd = (latent_Nd - mean_d) / math.sqrt(len(latent_Nd) - 1)
        _, directions_NN = torch.linalg.eigh(offset_Nd @ offset_Nd.T)
        components_rd = directions_NN.T.flip(0)[:rank] @ offset_Nd
        left_d = (offset_Nd.square().sum(dim=0) - components_rd.square().sum(dim=0)).clamp(min=0.0)
        state["mean"].copy_(mean_d)
        state["components"].zero_()[:rank].copy_(components_rd)
        state["deviation"].copy_(left_d.sqrt())

    def _sample(self, normal: Tensor) -> Tensor:
        """Latents [B, d] of the Gaussian, from the first d + r of standard normal numbers."""
        mean_d, components_rd, deviation_d = (self.get_buffer(name) for name in ("mean", "components", "deviation"))
        size, rank = len(mean_d), len(components_rd)
        return mean_d + normal[:, :size] * deviation_d + normal[:, size : size + rank] @ components_rd
