"""Latents as volumes (Rombach et al. 2022, latent diffusion): what an autoencoder makes of a volume is one of fewer, larger voxels.

The C channels of a latent are laid side by side as neighbouring voxels, which loses nothing and leaves white noise white; so denoisers,
preconditioners and samplers of volumes are those of latents. Each channel is moved and scaled to mean 0 and variance 1 over the people
whom the autoencoder was trained on.

Legend: B batch, C latent channels, x y z edges of a latent, a b c how many channels lie along each axis, X Y Z voxels.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor

from volgen.core.protocols import Shape3
from volgen.models.autoencoder import Codec, CodecConfig
from volgen.models.haar import analyse

SIDE_BY_SIDE: dict[int, Shape3] = {1: (1, 1, 1), 2: (1, 1, 2), 4: (1, 2, 2), 8: (2, 2, 2)}
"""Channels -> how many of them lie along each axis."""


class LatentCodec(Codec):
    """Encoder and decoder, and the mean and the deviation of each latent channel over people: 0 and 1 before they are measured.

    Args:
        sizes: the sizes of encoder and decoder.
        checkpointing: whether activations are computed again.
    """

    def __init__(self, sizes: CodecConfig, checkpointing: bool = False) -> None:
        super().__init__(sizes, checkpointing)
        self.register_buffer("mean", torch.zeros(sizes.latent_channels))
        self.register_buffer("deviation", torch.ones(sizes.latent_channels))

    def run(self, input_BCXYZ: Tensor, posterior: Tensor | None) -> Tensor:
        """Reconstructions of volumes; or, if their latents are sampled, what their encoding loses and costs.

        Returns:
            Volumes; or, [B, 3], the mean absolute error of each reconstruction, the same of its finest Haar coefficients, and the
            Kullback-Leibler divergence of its latent from the standard normal, in nats for each voxel.
        """
        if posterior is None:
            decoded: Tensor = self.net.decode(self.net.encode(input_BCXYZ)[0])
            return decoded
        error_BCXYZ, nats_B = self.sampled(input_BCXYZ, posterior)
        detail = analyse(error_BCXYZ)[:, 1:]
        return torch.stack([error.abs().mean(dim=(1, 2, 3, 4)) for error in (error_BCXYZ, detail)] + [nats_B], dim=1)

    @torch.no_grad()
    def measure(self, volumes: Iterable[Tensor]) -> None:
        """Measures mean and deviation of each channel over people's volumes [X, Y, Z]; of nobody's they stay as they are."""
        buffers = self.get_buffer("mean"), self.get_buffer("deviation")
        count, total, squares = 0, torch.zeros(len(buffers[0]), dtype=torch.float64), torch.zeros(len(buffers[0]), dtype=torch.float64)
        for volume_XYZ in volumes:
            latent = self.net.encode(volume_XYZ[None, None].to(buffers[0].device))[0].double().cpu()[0].flatten(1)
            count, total, squares = count + latent.shape[1], total + latent.sum(dim=1), squares + latent.square().sum(dim=1)
        if not count:
            return
        mean = total / count
        buffers[0].copy_(mean)
        buffers[1].copy_((squares / count - mean.square()).clamp(min=0.0).sqrt())


class Latents:
    """A :class:`~volgen.models.space.Domain` of latents.

    Args:
        codec: trained; it is not trained further.
        tile: edge of the pieces of a latent that are decoded at once; 0 for all of it.
        overlap: share of a piece's edge that its neighbour covers too, where they are blended.
        remembered: bytes of latents that are kept, by what was encoded: training meets the same volumes again.

    Raises:
        ValueError: a channel does not vary, or its scale is not finite.
    """

    voxels = False

    def __init__(self, codec: LatentCodec, tile: int = 0, overlap: float = 0.25, remembered: int = 0) -> None:
        self._codec = codec.eval().requires_grad_(False)
        self._mean, self._deviation = (codec.get_buffer(name).view(1, -1, 1, 1, 1) for name in ("mean", "deviation"))
        self._tile, self._overlap, self._remembered = tile, overlap, remembered
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._held = 0

    def check(self) -> None:
        """Makes sure that latents have a scale.

        Raises:
            ValueError: a channel does not vary over people, or by what is no number.
        """
        deviation = self._deviation.flatten()
        if not bool((self._mean.isfinite().all() & deviation.isfinite().all() & (deviation > 0.0).all()).item()):
            raise ValueError(f"channels of its latents vary by {[f'{value:.3g}' for value in deviation.tolist()]}")

    @torch.no_grad()
    def encode(self, x_BCXYZ: Tensor) -> Tensor:
        """The mean of each volume's posterior, by itself, so that it does not depend on who is encoded beside it."""
        return torch.cat([self._of_one(x[None]) for x in x_BCXYZ])

    def decode(self, z_BCXYZ: Tensor) -> Tensor:
        """Volumes; piece by piece if a latent is larger than one. Where pieces overlap, weights that fall off from middles blend them."""
        latent = channels_of(z_BCXYZ.to(self._mean.device), self._mean.shape[1]) * self._deviation + self._mean
        if not self._tile or max(latent.shape[2:]) <= self._tile:
            return self._codec.net.decode(latent).float().to(z_BCXYZ.device)  # type: ignore[no-any-return]
        from monai.inferers.utils import sliding_window_inference

        size = [min(self._tile, edge) for edge in latent.shape[2:]]
        decoded = sliding_window_inference(latent, size, 1, self._codec.net.decode, self._overlap, mode="gaussian")
        assert isinstance(decoded, Tensor)
        return decoded.float().to(z_BCXYZ.device)

    def _of_one(self, x_1CXYZ: Tensor) -> Tensor:
        key = hashlib.blake2b(x_1CXYZ.detach().cpu().numpy().tobytes(), digest_size=16).digest() if self._remembered else b""
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key].to(x_1CXYZ.device)
        mean, _ = self._codec.net.encode(x_1CXYZ.to(self._mean.device))
        latent = side_by_side((mean.float() - self._mean) / self._deviation)
        if self._remembered:
            self._keep(key, latent.cpu())
        return latent.to(x_1CXYZ.device)

    def _keep(self, key: bytes, latent: Tensor) -> None:
        self._known[key] = latent
        self._held += latent.numel() * latent.element_size()
        while self._held > self._remembered:
            _, oldest = self._known.popitem(last=False)
            self._held -= oldest.numel() * oldest.element_size()


def side_by_side(latent_BCxyz: Tensor) -> Tensor:
    """Channels side by side: [B, C, x, y, z] -> [B, 1, ax, by, cz]."""
    count, channels, x, y, z = latent_BCxyz.shape
    a, b, c = SIDE_BY_SIDE[channels]
    return latent_BCxyz.reshape(count, a, b, c, x, y, z).permute(0, 4, 1, 5, 2, 6, 3).reshape(count, 1, a * x, b * y, c * z)


def channels_of(z_BCXYZ: Tensor, channels: int) -> Tensor:
    """Inverse of :func:`side_by_side`."""
    a, b, c = SIDE_BY_SIDE[channels]
    count, _, x, y, z = z_BCXYZ.shape
    split = z_BCXYZ.reshape(count, x // a, a, y // b, b, z // c, c)
    return split.permute(0, 2, 4, 6, 1, 3, 5).reshape(count, channels, x // a, y // b, z // c)


def latent_grid(shape: Shape3, halvings: int, channels: int) -> Shape3:
    """Voxels of latents, channels side by side, of volumes of ``shape``."""
    x, y, z = ((edge >> halvings) * along for edge, along in zip(shape, SIDE_BY_SIDE[channels], strict=True))
    return x, y, z
