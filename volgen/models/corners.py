"""What a preconditioner knows of the low-pass corners of volumes, without a network.

The corner of level l is 2^(1.5 l) times the means over cubes of 2^l voxels (:mod:`volgen.models.haar`): noise of sigma in a volume is noise
of sigma in its corner.
"""

from __future__ import annotations

from torch import Tensor

from volgen.models.denoiser import Preconditioner
from volgen.models.haar import corner_scale, levels_between, means, spread
from volgen.models.model import sigma_of_means


class FittedCorners:
    """:class:`volgen.sampling.climb.Corners` from the preconditioner of a run.

    Args:
        preconditioner: that of volumes at full resolution.
        finest: level from which corners are counted: that of the finest ones that are on their way.
    """

    def __init__(self, preconditioner: Preconditioner, finest: int = 0) -> None:
        self._preconditioner, self._finest = preconditioner, finest

    def prior(self, level: int, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """Standard normal noise -> what sampling begins with, in corners of ``level``."""
        level += self._finest
        return self._preconditioner.coarse(level).prior(noise_BCXYZ, sigma_of_means(sigma, level)) * corner_scale(level)

    def noised(self, level: int, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """Standard normal noise -> a sample of corners of ``level`` under noise of ``sigma``."""
        level += self._finest
        return self._preconditioner.coarse(level).noised(noise_BCXYZ, sigma_of_means(sigma, level)) * corner_scale(level)

    def expected(self, level: int, c_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Clean corners of ``level`` expected, given noisy ones."""
        level += self._finest
        scale = corner_scale(level)
        return self._preconditioner.coarse(level).expected(c_BCXYZ / scale, sigma_of_means(sigma_B, level)) * scale

    def flowed(self, level: int, c_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor) -> Tensor:
        """Where the probability flow takes corners of ``level`` from one noise level to another, in closed form.

        Raises:
            ValueError: the preconditioner's skip path is the denoiser of no distribution, so that there is no such flow.
        """
        level += self._finest
        flow = self._preconditioner.coarse(level).flow_map
        if flow is None:
            raise ValueError("the skip path of this preconditioner is the denoiser of no distribution of volumes")
        scale = corner_scale(level)
        return flow(c_BCXYZ / scale, sigma_of_means(sigma_B, level), sigma_of_means(to_B, level)) * scale

    def joined(self, fine_BCXYZ: Tensor, corner_BCXYZ: Tensor) -> Tensor:
        """The finer bands of ``fine_BCXYZ`` around ``corner_BCXYZ``."""
        levels = levels_between(fine_BCXYZ.shape[-1], corner_BCXYZ.shape[-1])
        return fine_BCXYZ + spread(corner_BCXYZ / corner_scale(levels) - means(fine_BCXYZ, levels), levels)
