"""What tests of stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from volgen.core.manifest import checksums
from volgen.core.run_files import ENSEMBLE
from volgen.experts import ensemble as ensembles
from volgen.parallel.engine import Engine


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """``reseal(run)``: the files of a finished run are as they should be, whatever a test has made of them."""

    def again(run: Path) -> None:
        path = run / ENSEMBLE
        bank = ensembles.read(path)
        ensembles.write(path, replace(bank, files=checksums(run, bank.files)))

    return again


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
