"""Flows of volumes through ranks: every step once and in order, nobody waits for ever, and the time that a closed form says."""

from __future__ import annotations

import itertools

import pytest

from volgen.parallel.flow import Flow, choose, cut, simulate


def flow(stages: int, rounds: int, steps: int = 24, world_size: int | None = None) -> Flow:
    return Flow(world_size or stages, stages, cut([1.0] * steps, stages * rounds))


@pytest.mark.parametrize(("costs", "count"), [([1.0] * 10, 3), ([1.0, 2.0, 2.0, 2.0], 4), ([9.0, 1.0, 1.0], 3), ([0.0, 0.0, 1.0], 2)])
def test_chunks_are_all_steps_in_order(costs: list[float], count: int) -> None:
    chunks = cut(costs, count)
    assert len(chunks) == count and all(chunks)
    assert [step for chunk in chunks for step in chunk] == list(range(len(costs)))


def test_chunks_have_nearly_equal_costs() -> None:
    assert [len(chunk) for chunk in cut([1.0] * 10, 4)] in ([2, 3, 2, 3], [3, 2, 3, 2])
    assert cut([1.0, 1.0, 1.0, 3.0], 2) == (range(3), range(3, 4))


@pytest.mark.parametrize(("stages", "rounds", "units", "replicas"), list(itertools.product((1, 2, 3), (1, 2, 4), (1, 2, 5, 9), (1, 2))))
def test_every_step_of_every_unit_is_taken_once_and_in_order(stages: int, rounds: int, units: int, replicas: int) -> None:
    found = flow(stages, rounds, world_size=stages * replicas)
    taken: dict[int, list[int]] = {unit: [] for unit in range(units)}
    orders = [found.tasks(rank, units) for rank in range(found.world_size)]
    done: set[tuple[int, int]] = set()
    # Ranks go on whenever what they wait for has been done; that all come to their end is that nobody waits for ever.
    places = [0] * len(orders)
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(orders):
            while places[rank] < len(order):
                unit, chunk = order[places[rank]]
                if chunk and (unit, chunk - 1) not in done:
                    break
                taken[unit] += found.chunks[chunk]
                done.add((unit, chunk))
                places[rank] += 1
                moved = True
    assert all(steps == list(range(24)) for steps in taken.values())
    for rank, order in enumerate(orders):
        assert {step for _, chunk in order for step in found.chunks[chunk]} <= set(found.steps(found.place(rank)[1]))


@pytest.mark.parametrize(("stages", "rounds"), [(1, 1), (2, 1), (4, 2), (8, 3), (3, 4)])
def test_equal_chunks_take_the_time_of_the_closed_form(stages: int, rounds: int) -> None:
    units, steps = 8 * stages, stages * rounds * 2
    times = simulate(flow(stages, rounds, steps), [1.0] * steps, units)
    turn = steps / stages
    assert times.makespan == pytest.approx(turn * (units + (stages - 1) / rounds))
    assert times.efficiency == pytest.approx(units / (units + (stages - 1) / rounds))


def test_a_transfer_counts_while_the_row_fills_only() -> None:
    times = simulate(flow(4, 1), [1.0] * 24, 32, transfer=0.5)
    assert times.makespan == pytest.approx(6 * 35 + 3 * 0.5)


def test_the_slowest_stage_sets_the_pace() -> None:
    times = simulate(Flow(2, 2, (range(1), range(1, 2))), [1.0, 3.0], 10)
    assert times.makespan == pytest.approx(1 + 30)


def test_ranks_that_hold_everything_each_do_their_own() -> None:
    assert choose(4, 32, [1.0] * 12, list(range(12)), capacity=12).stages == 1
    assert choose(4, 32, [1.0] * 12, [0] * 12, capacity=1).stages == 1, "a single network"


def test_no_rank_keeps_more_experts_than_it_can_hold() -> None:
    for capacity in (3, 6, 8):
        found = choose(4, 32, [1.0] * 12, list(range(12)), capacity)
        assert found.stages > 1 and max(len(found.steps(stage)) for stage in range(found.stages)) <= capacity
        assert simulate(found, [1.0] * 12, 32).efficiency >= 0.9


def test_experts_that_no_row_can_hold_are_streamed_by_every_rank() -> None:
    assert choose(4, 32, [1.0] * 12, list(range(12)), capacity=2).stages == 1


@pytest.mark.parametrize("world_size", [2, 8, 64])
def test_eight_volumes_per_rank_use_nine_tenths_of_the_ranks(world_size: int) -> None:
    costs = [1.0] * (4 * world_size)
    found = choose(world_size, 8 * world_size, costs, list(range(len(costs))), capacity=4, stages=world_size)
    assert found.stages == world_size
    assert simulate(found, costs, 8 * world_size, transfer=0.05).efficiency >= 0.9
