"""Differentially private training by patient: clipped contributions and noise (Abadi et al. 2016), one budget for all experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from volgen.privacy.accounting import Steps
from volgen.privacy.by_patient import ByPatient
from volgen.privacy.mechanism import clipped
from volgen.privacy.secret import Secret


@dataclass(frozen=True)
class Mechanism:
    """A step of a Poisson-subsampled Gaussian mechanism.

    Attributes:
        sampling_rate: q in (0, 1], for each patient.
        noise_multiplier: standard deviation of the noise on the sum, in units of ``clip_norm``.
        clip_norm: largest Euclidean norm of one patient's contribution.
    """

    plan: ClassVar[str] = "dp_sgd"
    name: ClassVar[str] = "Poisson-subsampled Gaussian"

    sampling_rate: float
    noise_multiplier: float
    clip_norm: float

    @property
    def sound(self) -> bool:
        """Whether there is noise, and somebody to hide."""
        return 0.0 < self.sampling_rate <= 1.0 and self.noise_multiplier > 0.0 and self.clip_norm > 0.0

    def select(self, secret: Secret, step: int, patients: Sequence[str]) -> list[str]:
        """Each patient with the sampling rate, independently."""
        return [each for each in patients if secret.chance("draw", step, each) < self.sampling_rate]

    def clip(self, gradients: Sequence[Tensor]) -> float:
        """min(1, C / norm)."""
        return clipped(gradients, self.clip_norm)

    def noise(self, normal: Callable[[int], Tensor], step: int) -> Tensor:
        """Sigma C z, independent of all other steps."""
        return normal(step) * (self.noise_multiplier * self.clip_norm)

    def cost(self, count: int) -> Steps:
        """The steps themselves."""
        return Steps(self.sampling_rate, self.noise_multiplier, count)


class Config(ByPatient):
    """Training in which no patient of the training split is worth more than (epsilon, delta), over all experts, steps and restarts."""

    sampling: ClassVar[str] = "Poisson, by patient"

    kind: Literal["dp_sgd"] = "dp_sgd"

    def mechanism(self, rate: float, planned: int) -> Mechanism:
        """Steps whose noises are independent."""
        return Mechanism(rate, self.calibrated(rate, planned), self.clip_norm)
