"""Dropout of whole features: what a network may rest on differs from example to example, so that it learns few people less by heart.

A feature is left out in all voxels of an example (Tompson et al. 2015, SpatialDropout; Karras et al. 2022 do it voxel by voxel): neighbours
say the same, so that voxels that are left out one by one are guessed from the others. Which ones are is no state of a network but something
it is told, like the noise level, so that it is a function of the example and the step, whoever else is in the pass and whoever computes it.

Legend: B batch, K features of all residual blocks, one block after another.
"""

from __future__ import annotations

from statistics import NormalDist

from torch import Tensor

from volgen.models.denoiser import Network


def features_kept(normal_BK: Tensor, chance: float) -> Tensor:
    """What features are multiplied by, [B, K]: 0 with ``chance``, else 1 / (1 - chance), so that the mean over draws is 1.

    Args:
        normal_BK: standard normal numbers.
        chance: in (0, 1).
    """
    return (normal_BK >= NormalDist().inv_cdf(chance)).to(normal_BK.dtype) / (1 - chance)


def dropping(network: Network, kept_BK: Tensor) -> Network:
    """A network that keeps these features of a batch of examples; if an example is several of its samples, those of all of them.

    Only a network in training does: told the same, it computes as always where it is evaluated.
    """

    def asked(input_BCXYZ: Tensor, noise_B: Tensor, *told: object) -> Tensor:
        samples = len(noise_B) // len(kept_BK)
        return network(input_BCXYZ, noise_B, *told, kept_BK=kept_BK.repeat_interleave(samples, dim=0).to(noise_B.device))

    return asked
