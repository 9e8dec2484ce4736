"""What objectives of jumps share: targets that come from the network itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from volgen.core.given import Given
from volgen.training.objective import Jumps


def landed(jump: Jumps, x_BCXYZ: Tensor, sigma: Sequence[float], to: Sequence[float], given: Given) -> Tensor:
    """Where jumps end; those that go nowhere, also at noise level 0, leave volumes as they are."""
    goes = [here > there for here, there in zip(sigma, to, strict=True)]
    if not any(goes):
        return x_BCXYZ
    begin_B, end_B, goes_B = (
        torch.tensor(values, device=x_BCXYZ.device)
        for values in (
            [here if moves else 1.0 for here, moves in zip(sigma, goes, strict=True)],
            [there if moves else 1.0 for there, moves in zip(to, goes, strict=True)],
            goes,
        )
    )
    return torch.where(goes_B[:, None, None, None, None], jump(x_BCXYZ, begin_B, end_B, given), x_BCXYZ)
