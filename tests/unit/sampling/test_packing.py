"""A volume half-way down survives being sent, bit for bit."""

from __future__ import annotations

import pytest
import torch

from volgen.core.registry import config_class, kinds
from volgen.sampling.descent import Descent, down
from volgen.sampling.packing import Packing

GRID = [8.0, 3.0, 1.0, 0.3, 0.1]
SHAPE = (3, 4, 5)


@pytest.mark.parametrize("kind", kinds("volgen.sampling.samplers"))
def test_a_packed_volume_goes_on_as_if_it_had_stayed(kind: str) -> None:
    sampler = config_class("volgen.sampling.samplers", kind)().build()  # type: ignore[attr-defined]
    descent = Descent(lambda y, s: torch.tanh(y) / (1 + s.view(-1, 1, 1, 1, 1)), sampler, down(GRID), 3, (1, *SHAPE), torch.device("cpu"))
    packing = Packing(sampler, (1, *SHAPE))
    stays = sent = descent.begin(4)
    for number in range(len(GRID)):
        stays, sent = descent.advance(stays, number, 4), descent.advance(sent, number, 4)
        if number < len(GRID) - 1:
            packed = packing.pack(sent)
            assert packed.dtype == torch.uint8 and packed.shape == (packing.size,)
            sent = packing.unpack(packed.clone())
    assert torch.equal(sent.x_BCXYZ, stays.x_BCXYZ)
    assert packing.size <= 8 * 60 + 8, "8 bytes per voxel at most"
