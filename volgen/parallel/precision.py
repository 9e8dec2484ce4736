"""Running a bare network in the precision that its engine trained it in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from volgen.parallel.engine import EngineConfig


class InPrecision:
    """A network under autocast (bf16) or as it is (fp32); the output is fp32 either way, as an engine's is.

    Args:
        network: fp32 weights.
        config: says which precision.
    """

    def __init__(self, network: nn.Module, config: EngineConfig) -> None:
        self._network = network
        self._bf16 = config.precision == "bf16"

    def __call__(self, input_BCXYZ: Tensor, noise_B: Tensor, *told: Mapping[str, Tensor], **kept: Tensor) -> Tensor:
        """The network's output in fp32."""
        with torch.autocast(input_BCXYZ.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            output: Tensor = self._network(input_BCXYZ, noise_B, *told, **kept)
        return output.float()
