"""The denoising loss (Karras et al. 2022, equation 2): weight(sigma) times the mean over voxels of (D(x0 + sigma z; sigma) - x0)^2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.given import Examples
from volgen.training.objective import Draws, Network, Trainee


class Config(BaseConfig):
    """Noisy volumes become clean ones. The default."""

    kind: Literal["denoising"] = "denoising"

    def build(self, trainee: Trainee) -> Denoising:
        """The loss of one phase."""
        return Denoising(trainee)


@dataclass(frozen=True)
class Denoising:
    """The :class:`~volgen.training.objective.Objective` of denoising.

    Attributes:
        trainee: what is trained.
    """

    trainee: Trainee

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        """The loss [B] at one noise level of the phase and under one noise for each example."""
        x_BCXYZ = examples.x_BCXYZ
        sigma_B = torch.tensor([self.trainee.sigma(quantile) for quantile in draws.quantiles()], device=x_BCXYZ.device)
        z_BCXYZ = draws.normal(x_BCXYZ.shape[1:]).to(x_BCXYZ.device)
        denoise = self.trainee.denoiser(network, ids)
        y_BCXYZ = x_BCXYZ + sigma_B[:, None, None, None, None] * z_BCXYZ
        error_BCXYZ = denoise(y_BCXYZ, sigma_B, examples.given) - x_BCXYZ
        return denoise.weight(sigma_B) * error_BCXYZ.square().mean(dim=(1, 2, 3, 4))
