"""The validation loss of averaged weights, on draws that never change: differences between two steps are differences between weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from volgen.core.given import Examples
from volgen.core.protocols import Denoiser
from volgen.core.rng import normal, permutation
from volgen.training.loss import Weight, denoising_loss
from volgen.training.protocols import Ranks


class Validator:
    """Scores weights in a network of its own: whole on every rank, as sampling will use them, whatever ZeRO does to the trained one.

    Args:
        network: takes the weights; its device is where validation runs.
        denoise: the denoiser made of ``network``.
        weight: its loss weight.
        volumes: the validation volumes, or pieces, with what is known beside them, the same on every rank; they stay where they are.
        draws: noise draws for each volume.
        seed: of the run.
        ranks: share the work.
    """

    def __init__(
        self, network: nn.Module, denoise: Denoiser, weight: Weight, volumes: Examples, draws: int, seed: int, ranks: Ranks,
    ) -> None:  # fmt: skip
        self._network, self._denoise, self._weight = network.eval().requires_grad_(False), denoise, weight
        self._volumes, self._draws, self._seed, self._ranks = volumes, draws, seed, ranks

    def score(self, state: Mapping[str, Tensor], sigma: Callable[[float], float]) -> float:
        """Mean loss of the weights ``state``. A collective call.

        Noise levels are the mid-quantiles of the phase's training distribution, dealt to volumes in a fixed random order.

        Args:
            state: full weights and buffers by name.
            sigma: quantile in [0, 1) -> noise level.
        """
        self._network.load_state_dict(state)
        device = next(self._network.parameters()).device
        items = len(self._volumes) * self._draws
        places = permutation(items, self._seed, "validation", "sigma")
        total = 0.0
        for item in range(self._ranks.rank, items, self._ranks.world_size):
            index = item // self._draws
            examples = self._volumes[index : index + 1].to(device)
            x = examples.x_BCXYZ
            z = normal(x.shape, self._seed, "validation", "noise", item).to(device)
            level = torch.tensor([sigma((places[item] + 0.5) / items)], device=device)
            with torch.no_grad():
                total += float(denoising_loss(self._denoise, self._weight, x, z, level, examples.given))
        return self._ranks.sum([total])[0] / items
