"""Optimisers beside those of DeepSpeed: torch's own, and of libraries that are installed only where they are asked for.

Their state is not laid out like the weights (factors, statistics of whole matrices, numbers of all weights, bytes), so it is kept whole on
every rank: stage 0 of ZeRO.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from volgen.core.errors import UserError

Make = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimiser of parameters; the learning rate is set before each step."""
Settings = Callable[[tuple[float, float], float], dict[str, Any]]
RATE = 1e-3
"""Until the first step."""
LARGEST = 1024
"""Edge of the largest matrix that SOAP keeps of a weight's axis; longer axes are left as they are."""
EIGHT_BIT = 4096
"""Elements from which on a weight's moments have eight bits."""


@dataclass(frozen=True)
class Library:
    """Where an optimiser is, and what it is given.

    Attributes:
        module: that it is imported from.
        name: what its class is called.
        distribution: what is to be installed for it; "" for torch.
        settings: decay rates and weight decay -> its other arguments.
        averages: whether it averages the weights that it is judged by itself, which takes the place of annealing and of the moving average.
        moments: whether it has moment estimates with decay rates that are chosen.
    """

    module: str
    name: str
    distribution: str
    settings: Settings
    averages: bool = False
    moments: bool = True

    def make(self, betas: tuple[float, float], weight_decay: float) -> Make:
        """What makes it.

        Raises:
            UserError: its library is not installed.
        """
        try:
            found = getattr(importlib.import_module(self.module), self.name)
        except ImportError as error:
            do = "pip install 'volgen[optimisers]'"
            raise UserError("optimiser.algorithm", f"needs {self.distribution} ({error})", "that library", do) from None
        settings = self.settings(betas, weight_decay)
        return lambda parameters: found(list(parameters), lr=RATE, **settings)


def _adam_like(**more: Any) -> Settings:
    return lambda betas, weight_decay: {"betas": betas, "weight_decay": weight_decay, **more}


LIBRARIES: dict[str, Library] = {
    "adafactor": Library("torch.optim", "Adafactor", "", lambda _, weight_decay: {"weight_decay": weight_decay}, moments=False),
    "adam8bit": Library("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", _adam_like(min_8bit_size=EIGHT_BIT)),
    "prodigy": Library("prodigyopt", "Prodigy", "prodigyopt", _adam_like(safeguard_warmup=True)),
    "schedule_free": Library("schedulefree", "AdamWScheduleFree", "schedulefree", _adam_like(), averages=True),
    "soap": Library("pytorch_optimizer", "SOAP", "pytorch-optimizer", _adam_like(max_precondition_dim=LARGEST)),
}
