"""The Gaussian mechanism on gradients: who takes part in a step, what one patient may contribute at most, and the noise on the sum.

Everything that is random about one patient follows from the secret and their id, never from their place among the others: the sum may
move by one clipped contribution when somebody is left out, so everybody else's has to stay as it is, bit for bit (Cebere et al. 2026).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from volgen.privacy.ledger import Mechanism
from volgen.privacy.secret import Secret


class GradientMechanism:
    """Poisson sampling, clipping and noise of one launch, the same on all of its ranks (Abadi et al. 2016, by patient).

    Args:
        mechanism: rates and norms.
        divisor: what the noised sum is divided by: the expected number of patients in a step. It is public, the number drawn is not.
        secret: equal on all ranks.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, mechanism: Mechanism, divisor: float, secret: Secret, rank: int, world_size: int) -> None:
        self._mechanism, self._divisor, self._secret = mechanism, divisor, secret
        self._rank, self._world_size = rank, world_size
        self._step = 0

    def draw(self, patients: Sequence[str]) -> list[str]:
        """Who takes part in the next step: each of ``patients`` with the sampling rate, independently; may be nobody, may be everybody."""
        self._step += 1  # no two steps of a launch share random numbers
        return [each for each in patients if self._secret.chance("draw", self._step, each) < self._mechanism.sampling_rate]

    def seed(self, patient: str) -> int:
        """Of all other draws for this patient in this launch: noise levels, noises, choice of scans, augmentation."""
        return self._secret.number("patient", patient)

    def start(self, shapes: Sequence[torch.Size], device: torch.device) -> list[Tensor]:
        """A sum of no contributions."""
        return [torch.zeros(shape, device=device) for shape in shapes]

    def add(self, total: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Adds min(1, C / norm) times one patient's gradient, in place.

        One that is not finite adds nothing: it would otherwise contribute without bound.
        """
        norm = math.sqrt(sum(float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) ** 2 for gradient in gradients))
        if math.isfinite(norm):
            factor = min(1.0, self._mechanism.clip_norm / norm) if norm else 1.0
            torch._foreach_add_(list(total), list(gradients), alpha=factor)

    def finish(self, total: Sequence[Tensor]) -> list[Tensor]:
        """This rank's sum, with its part of the noise: the mean over ranks is (sum of contributions + sigma C z) / divisor.

        The elements of each tensor fall to the ranks in equal parts, and each rank draws the noise of its own part.
        """
        scale = self._mechanism.noise_multiplier * self._mechanism.clip_norm
        for index, tensor in enumerate(total):
            flat = tensor.view(-1)
            first, last = (flat.numel() * place // self._world_size for place in (self._rank, self._rank + 1))
            if scale and last > first:
                z = self._secret.normal((last - first,), "noise", self._step, index, self._rank)
                # Added in float64 and rounded once: low bits of the sum would otherwise show through noise that is rounded already.
                flat[first:last] = (flat[first:last].to("cpu", torch.float64) + z * scale).float().to(flat.device)
        torch._foreach_mul_(list(total), self._world_size / self._divisor)
        return list(total)
