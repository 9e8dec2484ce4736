"""What tests of trainings share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from volgen.parallel.engine import Engine


@pytest.fixture
def power_cut() -> Callable[[int], AbstractContextManager[None]]:
    """``with power_cut(n):``: the n-th optimiser step of this process ends in a crash instead of an update."""

    @contextmanager
    def at(step: int) -> Iterator[None]:
        real, taken = Engine.step, 0

        def crash(self: Engine, rate: float) -> float:
            nonlocal taken
            taken += 1
            if taken == step:
                raise KeyboardInterrupt
            return real(self, rate)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Engine, "step", crash)
            with pytest.raises(KeyboardInterrupt):
                yield

    return at
