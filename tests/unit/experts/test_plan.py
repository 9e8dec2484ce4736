from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volgen.core.errors import UserError
from volgen.experts.plan import ExpertsConfig, Phase, blocker, indices, plan, select

GRID = [20.0, 5.0, 1.0, 0.3, 0.1, 0.02]


@pytest.mark.parametrize(("order", "names", "starts"), [
    ("high_to_low", ["2", "1", "0"], [None, "2", "1"]), ("low_to_high", ["0", "1", "2"], [None, "0", "1"]),
])  # fmt: skip
def test_neighbours_start_from_the_one_before(order: str, names: list[str], starts: list[str | None]) -> None:
    phases = plan(ExpertsConfig.model_validate({"count": 3, "order": order}), GRID)
    assert [phase.name for phase in phases] == names
    assert [phase.start for phase in phases] == starts
    assert sorted(point for phase in phases for point in phase.points) == sorted(GRID)


def test_the_shared_network_comes_first_and_knows_every_noise_level() -> None:
    for warm_start, starts in (("neighbour", [None, "shared", "1"]), ("shared", [None, "shared", "shared"])):
        phases = plan(ExpertsConfig.model_validate({"count": 2, "shared_steps": 9, "warm_start": warm_start}), GRID)
        assert [phase.start for phase in phases] == starts
        assert (phases[0].index, phases[0].max_steps, phases[0].points) == (None, 9, tuple(sorted(GRID)))
        assert all(phase.max_steps is None for phase in phases[1:])


@pytest.mark.parametrize(("order", "sizes"), [("high_to_low", [2, 3, 1]), ("low_to_high", [1, 3, 2])])
def test_experts_may_own_different_numbers_of_noise_levels(order: str, sizes: list[int]) -> None:
    phases = plan(ExpertsConfig.model_validate({"count": 3, "points": [1, 3, 2], "order": order}), GRID)
    assert {phase.name: phase.points for phase in phases} == {"0": (0.02,), "1": (0.1, 0.3, 1.0), "2": (5.0, 20.0)}
    assert [len(phase.points) for phase in phases] == sizes


def test_each_expert_needs_its_number_of_noise_levels() -> None:
    with pytest.raises(ValueError, match="points has 2 numbers, but count is 3"):
        ExpertsConfig(count=3, points=(3, 3))


def test_no_warm_start_is_none() -> None:
    assert {phase.start for phase in plan(ExpertsConfig(count=6, warm_start="none"), GRID)} == {None}


@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.sampled_from(["high_to_low", "low_to_high"]))
def test_chains_are_contiguous_and_even_and_begin_from_the_shared_network(count: int, chains: int, shared: bool, order: str) -> None:
    if chains > count:
        return
    phases = plan(ExpertsConfig.model_validate({"count": count, "chains": chains, "shared_steps": 4 * shared, "order": order}), GRID)
    experts = [phase for phase in phases if phase.index is not None]
    heads = [place for place, phase in enumerate(experts) if phase.start == ("shared" if shared else None)]
    assert len(heads) == chains
    lengths = [end - begin for begin, end in zip(heads, [*heads[1:], count], strict=True)]
    assert max(lengths) - min(lengths) <= 1
    for place, (before, phase) in enumerate(itertools.pairwise(experts), start=1):
        assert place in heads or phase.start == before.name
        assert abs((before.index or 0) - (phase.index or 0)) == 1


def test_chains_and_groups_that_cannot_be_are_refused() -> None:
    for wrong, message in (
        ({"count": 2, "chains": 3}, "each chain needs at least one"),
        ({"count": 4, "chains": 2, "warm_start": "none"}, "chains of neighbours, but warm_start is 'none'"),
        ({"count": 4, "chains": 2, "groups": 3}, "only 2 of the experts can be trained at a time"),
        ({"count": 4, "warm_start": "none", "groups": 5}, "only 4 of the experts can be trained at a time"),
    ):
        with pytest.raises(ValueError, match=message):
            ExpertsConfig.model_validate(wrong)
    ExpertsConfig.model_validate({"count": 4, "warm_start": "none", "groups": 4})


def test_what_has_to_be_trained_first() -> None:
    phases = plan(ExpertsConfig(count=4, chains=2, shared_steps=1), GRID)
    named = {phase.name: phase for phase in phases}

    def first(name: str, *finished: str) -> str | None:
        found = blocker(named[name], phases, finished)
        return found.name if found else None

    assert [first("2"), first("2", "shared"), first("2", "shared", "3")] == ["shared", "3", None]
    assert [first("1"), first("1", "shared"), first("shared")] == ["shared", None, None]
    assert [phase.name for phase in select(phases, "1:3")] == ["shared", "2", "1"]
    assert [phase.name for phase in select(phases, "shared")] == ["shared"]
    with pytest.raises(UserError, match="there is no shared network"):
        select(plan(ExpertsConfig(count=4), GRID), "shared")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:4", range(4)), ("1:2", range(1, 2)), ("2:", range(2, 4)), (":3", range(3)), (":", range(4)), ("3:6", range(3, 4))],
)
def test_ranges(text: str, expected: range) -> None:
    assert indices(text, 4) == expected


@pytest.mark.parametrize("text", ["", "3", "2:2", "3:1", "0:0", "-1:2", "4:", "4:5", "a:b", "0:1:2", "1.0:2", "0-3"])
def test_other_texts_are_no_ranges(text: str) -> None:
    with pytest.raises(UserError, match=r"--only: .*expected FIRST:LAST with 0 <= FIRST < LAST, FIRST < 4"):
        indices(text, 4)


@given(st.integers(1, 6), st.floats(0.0, 1.0, exclude_max=True), st.booleans())
def test_every_drawn_noise_level_belongs_to_its_expert(count: int, quantile: float, on_grid: bool) -> None:
    for phase in plan(ExpertsConfig(count=count), GRID):
        sigma = phase.sigma(quantile, on_grid)
        assert sigma in phase.span
        assert min(GRID) <= sigma <= max(GRID)
        assert not on_grid or sigma in GRID


def test_on_the_grid_points_are_equally_likely_and_off_it_log_sigma_is_uniform() -> None:
    (phase,) = plan(ExpertsConfig(count=1), GRID)
    drawn = [phase.sigma((index + 0.5) / 600, True) for index in range(600)]
    assert {drawn.count(point) for point in GRID} == {100}
    logs = [math.log(phase.sigma(quantile, False)) for quantile in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53)]
    low, high = math.log(0.02), math.log(20.0)
    assert logs == pytest.approx([low + share * (high - low) for share in (0.0, 0.25, 0.5, 0.75, 1.0)])


def test_a_phase_waits_for_what_it_needs_though_it_starts_from_something_else() -> None:
    experts = [replace(phase, needs=("autoencoder",)) for phase in plan(ExpertsConfig(count=2), [3.0, 2.0, 1.0, 0.5])]
    first = Phase("autoencoder", None, experts[0].span, (), None, max_steps=3)
    phases = [first, *experts]
    assert (first.label, first.levels) == ("the autoencoder", "") and experts[0].levels == " (sigma 2 to 3)"
    assert blocker(first, phases, set()) is None
    assert blocker(experts[1], phases, set()) is first, "by way of the expert that it starts from"
    assert blocker(experts[1], phases, {experts[0].name}) is first, "also if that is there"
    assert blocker(experts[1], phases, {"autoencoder"}) is experts[0]
    assert blocker(experts[1], phases, {"autoencoder", experts[0].name}) is None
