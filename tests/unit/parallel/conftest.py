"""What the tests of every optimiser behind the engine share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from volgen.parallel import launch
from volgen.parallel.engine import Engine


@pytest.fixture(scope="module", autouse=True)
def one_process() -> None:
    launch.start(launch.Launch())


@pytest.fixture
def assert_resumes(tmp_path: Path) -> Callable[..., None]:
    """Trains ``last`` steps at once, and in two engines with a checkpoint after ``cut``: the same numbers and weights, bit for bit."""

    def check(make: Callable[[], Engine], train: Callable[[Engine, int, int], list[Any]], cut: int, last: int) -> None:
        whole = make()
        uninterrupted = train(whole, 0, last)
        final = whole.full_state()
        whole.destroy()

        first = make()
        begun = train(first, 0, cut)
        first.save(tmp_path)
        first.destroy()
        second = make()
        second.load(tmp_path)
        resumed = begun + train(second, cut, last)
        state = second.full_state()
        second.destroy()
        assert resumed == uninterrupted
        assert all(torch.equal(state[name], final[name]) for name in final)

    return check
