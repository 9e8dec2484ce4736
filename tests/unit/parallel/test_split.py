from __future__ import annotations

import pytest

from volgen.core.errors import UserError
from volgen.parallel.launch import Launch
from volgen.parallel.split import group_of


def test_neighbouring_ranks_share_a_group_and_keep_their_device() -> None:
    places = [group_of(Launch(rank=rank, world_size=6, local_rank=rank % 3), 3) for rank in range(6)]
    assert [number for number, _ in places] == [0, 0, 1, 1, 2, 2]
    assert [(launch.rank, launch.world_size, launch.local_rank) for _, launch in places] == [
        (0, 2, 0), (1, 2, 1), (0, 2, 2), (1, 2, 0), (0, 2, 1), (1, 2, 2),
    ]  # fmt: skip


def test_ranks_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(UserError, match=r"experts\.groups: 6 ranks cannot be 4 equal groups; expected a divisor of 6"):
        group_of(Launch(rank=0, world_size=6), 4)
