from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volgen.training.stopping import Stopping, StoppingConfig


def run(config: StoppingConfig, losses: list[float]) -> int:
    """Validations until the rule stops, or all of them."""
    stopping = Stopping(config, config.max_steps)
    for index, loss in enumerate(losses, start=1):
        stopping.update(index, loss)
        if stopping.done(index):
            return index
    return len(losses)


def test_it_stops_after_patience_validations_without_gain() -> None:
    config = StoppingConfig(max_steps=100, patience=2, min_gain=0.01)
    assert run(config, [1.0, 0.9, 0.8, 0.799, 0.8, 0.5]) == 5


def test_slow_steady_gains_add_up() -> None:
    config = StoppingConfig(max_steps=100, patience=3, min_gain=0.01)
    losses = [0.996**index for index in range(50)]
    assert run(config, losses) == 50, "0.4 % a time is more than 1 % in three"
    assert run(config, [0.999**index for index in range(50)]) == 4


def test_min_and_max_steps_bound_it() -> None:
    assert run(StoppingConfig(max_steps=100, min_steps=7, patience=1), [1.0] * 20) == 7
    assert run(StoppingConfig(max_steps=5, patience=9), [1.0 / (index + 1) for index in range(20)]) == 5


def test_the_best_is_the_lowest_even_if_it_was_no_gain() -> None:
    stopping = Stopping(StoppingConfig(min_gain=0.5, patience=9), 100)
    assert [stopping.update(step, loss) for step, loss in enumerate([1.0, 0.9, 0.95, 0.8])] == [True, True, False, True]
    assert (stopping.best, stopping.best_step) == (0.8, 3)


def test_validation_is_due_every_so_often_and_at_the_end() -> None:
    stopping = Stopping(StoppingConfig(validate_every=4), 10)
    assert [step for step in range(1, 11) if stopping.due(step)] == [4, 8, 10]


@given(st.lists(st.floats(0.01, 10.0), max_size=12), st.lists(st.floats(0.01, 10.0), min_size=1, max_size=12))
def test_a_restored_rule_goes_on_like_the_original(before: list[float], after: list[float]) -> None:
    config = StoppingConfig(patience=3, min_gain=0.1)
    one, other = Stopping(config, 1000), Stopping(config, 1000)
    for step, loss in enumerate(before, start=1):
        one.update(step, loss)
    other.restore(json.loads(json.dumps(one.state(), allow_nan=False)))
    for step, loss in enumerate(after, start=len(before) + 1):
        assert one.update(step, loss) == other.update(step, loss)
        assert one.done(step) == other.done(step)
    assert one.state() == other.state()


def test_bounds_may_be_for_each_noise_level_of_an_expert() -> None:
    each = StoppingConfig(max_steps=30, min_steps=20, steps_per="point")
    assert (each.bounds(12).max_steps, each.bounds(12).min_steps) == (360, 240)
    assert StoppingConfig(max_steps=30, min_steps=20).bounds(12).max_steps == 30
    assert each.fixed(480).bounds(12).max_steps == 480


@pytest.mark.parametrize("key", ["max_steps", "patience", "validate_every"])
def test_zero_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        StoppingConfig.model_validate({key: 0})
