"""Who trains what, with several queues on one run directory as several jobs have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from volgen.experts.plan import ExpertsConfig, Phase, plan, select
from volgen.runs import queue as train_queue
from volgen.runs.paths import Paths
from volgen.runs.queue import Patience, Queue, Wait
from volgen.runs.record import PhaseRecord

GRID = [0.1 * 2**power for power in range(8)]
RECORD = PhaseRecord(3, 2, 0.5, 100, "0" * 64)
CHAINS = ExpertsConfig(count=4, chains=2, shared_steps=5)


Make = Callable[..., Queue]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Make]:
    """``queue(config, only)``: a new one, as another process would have it; all let go of what they have at the end."""
    with ExitStack() as opened:

        def make(config: ExpertsConfig = CHAINS, only: str | None = None) -> Queue:
            phases = plan(config, GRID)
            return opened.enter_context(closing(Queue(Paths(tmp_path), phases, phases if only is None else select(phases, only))))

        yield make


def take(queue: Queue) -> Phase:
    found = queue.next()
    assert isinstance(found, Phase), found
    return found


def test_one_process_gets_the_plan_in_its_order(queue: Make, tmp_path: Path) -> None:
    alone = queue()
    order = []
    while found := alone.next():
        assert isinstance(found, Phase)
        order.append(found.name)
        alone.done(found, RECORD)
    assert order == ["shared", "3", "2", "1", "0"]
    assert alone.complete
    assert not list(tmp_path.rglob(".lock"))


def test_two_processes_never_get_the_same_and_wait_for_what_they_start_from(queue: Make) -> None:
    one, two = queue(), queue()
    shared = take(one)
    waiting = two.next()
    assert isinstance(waiting, Wait)
    assert waiting.by is not None
    assert waiting.reason == f"the shared network, which {waiting.by} is training"
    one.done(shared, RECORD)
    first, second = take(one), take(two)
    assert (first.name, second.name) == ("3", "1"), "the heads of the two chains"
    one.done(first, RECORD)
    assert take(one).name == "2"
    two.done(second, RECORD)
    assert take(two).name == "0"
    two.close()
    assert take(queue()).name == "0", "what nobody has any longer"


def test_a_range_takes_its_own_and_the_shared_network(queue: Make) -> None:
    one, two = queue(only="0:2"), queue(only="2:4")
    shared = take(two)
    assert shared.index is None
    two.done(shared, RECORD)
    assert [take(one).name, take(two).name] == ["1", "3"]


def test_waiting_for_another_range_says_for_what_and_ends_if_nobody_trains_it(
    queue: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ExpertsConfig(count=4)
    low, high = queue(config, "0:2"), queue(config, "2:4")
    clock = [0.0]
    monkeypatch.setattr(train_queue.time, "monotonic", lambda: clock[0])
    patience = Patience()

    def look(at: float) -> bool:
        clock[0] = at
        found = low.next()
        assert isinstance(found, Wait)
        return patience.bear(found)

    assert look(0.0)
    assert look(100.0)
    assert capfd.readouterr().err.splitlines() == [
        "Waiting for expert 3, which nobody is training: expert 1 starts from it, by way of others."
    ]
    high.done(take(high), RECORD)
    take(high)
    for at in (500.0, 1000.0, 1200.0):
        assert look(at)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2, "at once, and again after ten minutes"
    assert all("expert 2, which " in line and line.endswith("is training: expert 1 starts from it.") for line in said)
    high.close()
    assert look(1700.0)
    capfd.readouterr()
    assert not look(1801.0)
    assert "Waited 600 s in vain for expert 2, which nobody is training: expert 1 starts from it. Start the job" in capfd.readouterr().err


def test_what_another_process_has_just_finished_is_not_begun_again(queue: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = queue(), queue()
    shared = take(one)
    original = train_queue.Lock.take.__func__  # type: ignore[attr-defined]

    def late(cls: type, path: Path) -> object:
        monkeypatch.undo()
        one.done(shared, RECORD)  # after two has looked at the records and before it gets the lock
        return original(cls, path)

    monkeypatch.setattr(train_queue.Lock, "take", classmethod(late))
    assert take(two).name == "3"
