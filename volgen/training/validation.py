"""The validation loss of averaged weights, on draws that never change: differences between two steps are differences between weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from volgen.core.given import Examples
from volgen.core.rng import normal, permutation
from volgen.training.objective import Network, Objective
from volgen.training.protocols import Ranks


class Validator:
    """Scores weights in a network of its own: whole on every rank, as sampling will use them, whatever ZeRO does to the trained one.

    Args:
        network: takes the weights; its device is where validation runs.
        forward: ``network`` as it computes.
        volumes: the validation volumes, or pieces, with what is known beside them, the same on every rank; they stay where they are.
        draws: noise draws for each volume.
        seed: seed of the run.
        ranks: share the work.
    """

    def __init__(
        self, network: nn.Module, forward: Network, volumes: Examples, draws: int, seed: int, ranks: Ranks,
    ) -> None:  # fmt: skip
        self._network, self._forward = network.eval().requires_grad_(False), forward
        self._volumes, self._draws, self._seed, self._ranks = volumes, draws, seed, ranks

    def score(self, state: Mapping[str, Tensor], objective: Objective, step: int) -> float:
        """Mean loss of the weights ``state``. A collective call.

        Args:
            state: full weights and buffers by name.
            objective: loss of the phase.
            step: after which it is.
        """
        self._network.load_state_dict(state)
        device = next(self._network.parameters()).device
        items = len(self._volumes) * self._draws
        total = 0.0
        for item in range(self._ranks.rank, items, self._ranks.world_size):
            index = item // self._draws
            examples = self._volumes[index : index + 1].to(device)
            with torch.no_grad():
                total += float(objective.loss(self._forward, examples, _ItemDraws(self._seed, items, item, step)))
        return self._ranks.sum([total])[0] / items


@dataclass(frozen=True)
class _ItemDraws:
    """Draws of one item of a validation. Quantiles are the middles of equal parts of [0, 1), dealt to items in a fixed random order."""

    seed: int
    items: int
    item: int
    step: int

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        return [(_places(self.items, self.seed, purpose)[self.item] + 0.5) / self.items]

    def normal(self, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        return normal((1, *shape), self.seed, "validation", purpose, self.item)


@lru_cache(maxsize=8)
def _places(items: int, seed: int, purpose: str) -> list[int]:
    return permutation(items, seed, "validation", purpose)
