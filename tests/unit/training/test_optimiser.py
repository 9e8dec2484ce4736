from __future__ import annotations

import pytest

from volgen.training.optimiser import OptimiserConfig, learning_rate


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    config = OptimiserConfig(learning_rate=0.4, warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in (1, 2, 3, 4, 5, 100)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert learning_rate(OptimiserConfig(learning_rate=0.4, warmup_steps=0), 1, 100) == 0.4


def test_the_cosine_goes_from_the_peak_to_its_fraction() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=10, decay_to=0.1)
    assert learning_rate(config, 10, 110) == pytest.approx(1.0)
    assert learning_rate(config, 60, 110) == pytest.approx(0.55), "half-way in between"
    assert learning_rate(config, 110, 110) == pytest.approx(0.1)
    assert learning_rate(config, 200, 110) == pytest.approx(0.1)


def test_a_run_shorter_than_its_warm_up_never_passes_the_peak() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=50, decay_to=0.0)
    assert all(0.0 < learning_rate(config, step, 10) <= 0.2 for step in range(1, 11))


def test_the_shared_network_may_keep_a_higher_rate() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup_steps=0, decay_to=0.1, shared_decay_to=0.5)
    assert learning_rate(config.shared(), 100, 100) == pytest.approx(0.5)
    assert learning_rate(config, 100, 100) == pytest.approx(0.1)
    assert OptimiserConfig(decay_to=0.1).shared().decay_to == 0.1
