"""Noisy steps: who takes part in one, what one patient may contribute at most, the noise on the sum, and what it costs.

Everything that is random about one patient follows from the secret and their id, never from their place among the others: the sum may
move by one clipped contribution when somebody is left out, so everybody else's has to stay as it is, bit for bit (Cebere et al. 2026).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from volgen.privacy.accounting import Steps
from volgen.privacy.secret import Secret


class NoisyStep(Protocol):
    """One noisy step, as a plan takes it and the journal writes it down: a value (a frozen dataclass) whose fields are numbers.

    A plan of ``volgen/privacy/plans`` that spends a budget has one, called ``Mechanism``. What is random comes from the secret of the
    launch, by patient and by step, so that a step can be computed again, whoever else takes part in it.
    """

    plan: ClassVar[str]
    """Kind of the plan, by which a journal finds this class again."""
    name: ClassVar[str]
    """What reviewers know it by, in ``privacy_ledger.json``."""

    @property
    def sampling_rate(self) -> float:
        """Probability that a patient takes part in a step, in (0, 1]."""
        ...

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise on the sum, in units of ``clip_norm``."""
        ...

    @property
    def clip_norm(self) -> float:
        """Largest Euclidean norm of one patient's contribution."""
        ...

    @property
    def sound(self) -> bool:
        """Whether numbers that were read from a file are those of a noisy step."""
        ...

    def select(self, secret: Secret, step: int, patients: Sequence[str]) -> list[str]:
        """Who of ``patients`` takes part in step ``step`` of a launch (from 1), in their order."""
        ...

    def clip(self, gradients: Sequence[Tensor]) -> float:
        """What one patient's gradient is multiplied by, so that its norm is at most ``clip_norm``; 0: it must not be added at all."""
        ...

    def noise(self, normal: Callable[[int], Tensor], step: int) -> Tensor:
        """The noise on the sum in step ``step`` of a launch, float64.

        Args:
            normal: number of a step -> standard normal numbers of that step, again and again the same: those of earlier steps may be used.
            step: from 1.
        """
        ...

    def cost(self, count: int) -> Steps:
        """Poisson-subsampled Gaussian steps that cost at least as much as ``count`` of these."""
        ...


def clipped(gradients: Sequence[Tensor], clip_norm: float) -> float:
    """min(1, C / norm) over all tensors together (Abadi et al. 2016); 0 for a gradient that is not finite, whose part has no bound."""
    norm = math.sqrt(sum(float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) ** 2 for gradient in gradients))
    if not math.isfinite(norm):
        return 0.0
    return min(1.0, clip_norm / norm) if norm else 1.0


class GradientMechanism:
    """Selection, clipping and noise of one launch, the same on all of its ranks.

    Args:
        mechanism: the steps.
        divisor: what the noised sum is divided by: the expected number of patients in a step. It is public, the number drawn is not.
        secret: equal on all ranks.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(self, mechanism: NoisyStep, divisor: float, secret: Secret, rank: int, world_size: int) -> None:
        self._mechanism, self._divisor, self._secret = mechanism, divisor, secret
        self._rank, self._world_size = rank, world_size
        self._step = 0

    def draw(self, patients: Sequence[str]) -> list[str]:
        """Who of ``patients`` takes part in the next step; may be nobody, may be everybody."""
        self._step += 1  # no two steps of a launch share random numbers
        return self._mechanism.select(self._secret, self._step, patients)

    def seed(self, patient: str) -> int:
        """Seed of all other draws for this patient in this launch: noise levels, noises, choice of scans, augmentation."""
        return self._secret.number("patient", patient)

    def zeros(self, shapes: Sequence[torch.Size], device: torch.device) -> list[Tensor]:
        """A sum of no contributions."""
        return [torch.zeros(shape, device=device) for shape in shapes]

    def add(self, total: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Adds one patient's clipped gradient, in place."""
        factor = self._mechanism.clip(gradients)
        if factor:
            torch._foreach_add_(list(total), list(gradients), alpha=factor)

    def finish(self, total: Sequence[Tensor]) -> list[Tensor]:
        """This rank's sum, with its part of the noise: the mean over ranks is (sum of contributions + noise) / divisor.

        The elements of each tensor fall to the ranks in equal parts, and each rank draws the noise of its own part.
        """
        for index, tensor in enumerate(total):
            flat = tensor.view(-1)
            first, last = (flat.numel() * place // self._world_size for place in (self._rank, self._rank + 1))
            if last > first:
                z = self._mechanism.noise(partial(self._normal, last - first, index), self._step)
                # Added in float64 and rounded once: low bits of the sum would otherwise show through noise that is rounded already.
                flat[first:last] = (flat[first:last].to("cpu", torch.float64) + z).float().to(flat.device)
        torch._foreach_mul_(list(total), self._world_size / self._divisor)
        return list(total)

    def _normal(self, count: int, index: int, step: int) -> Tensor:
        return self._secret.normal((count,), "noise", step, index, self._rank)
