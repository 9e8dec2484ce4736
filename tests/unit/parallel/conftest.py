"""What the tests of every optimiser behind the engine share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.parallel import launch
from volgen.parallel.engine import Engine


@pytest.fixture(scope="module", autouse=True)
def one_process() -> None:
    launch.take_part(launch.Launch())


@pytest.fixture
def step() -> Callable[[Engine, Tensor, Tensor, float], tuple[float, float]]:
    """One optimiser step of denoising ``x`` to itself, in as many micro-batches as the engine accumulates: (loss, gradient norm)."""

    def run(engine: Engine, x: Tensor, noise: Tensor, rate: float) -> tuple[float, float]:
        total = 0.0
        for rows_x, rows_noise in zip(x.chunk(engine.accumulation), noise.chunk(engine.accumulation), strict=True):
            loss = (engine(rows_x, rows_noise) - rows_x).square().mean()
            engine.backward(loss)
            total += float(loss.detach()) / engine.accumulation
        return total, engine.step(rate)

    return run


@pytest.fixture
def assert_resumes() -> Callable[..., None]:
    """Trains ``last`` steps at once, and in two engines with all state by name after ``cut``: the same numbers and weights.

    They are equal bit for bit, unless ``tolerance`` is given because the second engine is ``other``.
    """

    def check(
        make: Callable[[], Engine], train: Callable[[Engine, int, int], list[Any]], cut: int, last: int,
        other: Callable[[], Engine] | None = None, tolerance: float = 0.0,
    ) -> None:  # fmt: skip
        whole = make()
        uninterrupted = train(whole, 0, last)
        final = whole.full_state()
        whole.destroy()

        first = make()
        begun = train(first, 0, cut)
        saved, updates = {kind: dict(first.read(kind)) for kind in first.kinds}, first.updates
        first.destroy()
        second = (other or make)()
        for kind, tensors in saved.items():
            second.write(kind, tensors)
        second.updates = updates
        resumed = begun + train(second, cut, last)
        state = second.full_state()
        second.destroy()
        assert state.keys() == final.keys()
        torch.testing.assert_close(torch.tensor(resumed), torch.tensor(uninterrupted), rtol=tolerance, atol=0.0)
        for name, tensor in final.items():
            torch.testing.assert_close(state[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")

    return check
