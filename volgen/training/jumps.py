"""What objectives of jumps share: targets that come from the network itself."""

from __future__ import annotations

import torch
from torch import Tensor

from volgen.core.given import Given
from volgen.training.objective import Jumps


def landed(jump: Jumps, x_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor, given: Given) -> Tensor:
    """Where jumps end; those that go nowhere, also at noise level 0, leave volumes as they are."""
    goes_B = sigma_B > to_B
    if not goes_B.any():
        return x_BCXYZ
    ended_BCXYZ = jump(x_BCXYZ, torch.where(goes_B, sigma_B, 1.0), torch.where(goes_B, to_B, 1.0), given)
    return torch.where(goes_B[:, None, None, None, None], ended_BCXYZ, x_BCXYZ)
