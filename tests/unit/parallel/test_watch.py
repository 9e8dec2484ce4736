"""The two sides of the watch, on real sockets of this machine; whole jobs that lose a rank are in tests/distributed/test_chaos.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from volgen.core.exit_codes import RANK_LOST, SAVED
from volgen.parallel import _watchers, machine
from volgen.parallel import watch as module
from volgen.parallel._link import Link, listen, ready
from volgen.parallel._watchers import Hub, Member, Report, Spoke, Verdict
from volgen.parallel.launch import Launch
from volgen.parallel.watch import Alone, watch

DEAD, HUNG, LOOK = 3.0, 30.0, 0.02
MEMBERS = [Member(0, "first", 100), Member(1, "second", 200), Member(2, "third", 300)]


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes what a test opened; nobody here reads last words, so nobody waits for that."""
    made: list[Link] = []
    whole = Link.__init__

    def remembered(self: Link, connection: socket.socket) -> None:
        whole(self, connection)
        made.append(self)

    monkeypatch.setattr(Link, "__init__", remembered)
    monkeypatch.setattr(_watchers, "SECONDS_TO_READ", 0.1)
    yield
    for link in made:
        link.close()


@pytest.fixture
def hub() -> Iterator[tuple[Hub, int]]:
    server = listen()
    yield Hub(server, "token", MEMBERS, DEAD, HUNG), server.getsockname()[1]
    server.close()


def spoke(port: int, index: int, token: str = "token") -> Spoke:
    return Spoke(Link(socket.create_connection(("localhost", port))), index, token, MEMBERS[0], DEAD)


def verdict(look: Callable[[], Verdict | None], seconds: float = 20.0) -> Verdict:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
    pytest.fail("no verdict")


def settle(hub: Hub, *spokes: Spoke) -> None:
    for _ in range(5):
        assert hub.look(Report(), LOOK) is None
        assert not any(side.look(Report(), LOOK) for side in spokes)


def test_a_killed_rank_is_named_at_once_and_the_others_learn_of_it(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)
    begin = time.monotonic()
    one._heard.link.close()  # what the system does with the sockets of a killed process
    found = verdict(lambda: side.look(Report(), LOOK))
    assert time.monotonic() - begin < DEAD
    assert found.text.startswith("rank 1 on second (process 200) has died.")
    assert (found.code, found.lost, found.told) == (RANK_LOST, 1, False)
    passed_on = verdict(lambda: two.look(Report(), LOOK))
    assert passed_on.told and passed_on.text == found.text, "rank 2 leaves too, and says nothing"


def test_rank_0_is_named_when_it_is_gone(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)
    side._heard[1].link.close()
    assert verdict(lambda: one.look(Report(), LOOK)).text.startswith("rank 0 on first (process 100) has died.")


def test_silence_counts_on_both_sides(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)

    def keep_two_alive() -> Verdict | None:
        two.look(Report(), 0.0)
        return side.look(Report(), LOOK)

    found = verdict(keep_two_alive)  # rank 1 is stopped: it neither speaks nor closes
    assert found.text.startswith("rank 1 on second (process 200) has not been heard of for 3 s")
    alone = socket.create_server(("localhost", 0))
    waiting = spoke(alone.getsockname()[1], 1)
    assert verdict(lambda: waiting.look(Report(), LOOK)).text.startswith("rank 0 on first (process 100) has not been heard of")
    alone.close()


def test_one_who_slept_itself_does_not_accuse_others(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)
    time.sleep(1.2 * DEAD)
    for sleeper in (side, one, two):
        sleeper.forgive()
    settle(side, one, two)


def test_a_hung_rank_is_named_with_the_line_where_it_stands(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)
    two.look(Report(HUNG + 1, waits=True, at="group.py line 30 (sum)"), LOOK)
    one.look(Report(HUNG + 1, waits=False, at="store.py line 88 (read)"), LOOK)
    found = verdict(lambda: side.look(Report(HUNG + 1, waits=True, at="group.py line 30 (sum)"), LOOK))
    assert found.text.startswith("rank 1 on second (process 200) at store.py line 88 (read): no step for 30 s.")
    assert found.lost == 1


def test_when_all_wait_for_each_other_all_are_listed(hub: tuple[Hub, int]) -> None:
    side, port = hub
    sides = [spoke(port, 1), spoke(port, 2)]
    settle(side, *sides)
    for one in sides:
        one.look(Report(HUNG + 1, waits=True, at="group.py line 30 (sum)"), LOOK)
    found = verdict(lambda: side.look(Report(HUNG + 1, waits=True, at="engine.py line 9 (step)"), LOOK))
    assert "no rank can be blamed" in found.text
    assert all(f"{member}" in found.text for member in MEMBERS)


def test_leaving_together_is_no_failure_and_leaving_alone_with_an_error_is(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)
    one.leave(SAVED)
    for _ in range(5):
        two.look(Report(), LOOK)
        assert side.look(Report(), LOOK) is None
    two.leave(2)
    found = verdict(lambda: side.look(Report(), LOOK))
    assert (found.code, found.lost) == (2, None)
    assert found.text == "rank 2 on third (process 300) has stopped with exit code 2; its own message says why."


def test_last_words_are_heard_though_much_was_unread(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)
    for _ in range(20):  # unread on rank 1 when it leaves: a plain close would reset the connection
        two.look(Report(), 0.0)
        side.look(Report(), LOOK / 10)
    leaving = threading.Thread(target=one.leave, args=(0,))
    leaving.start()
    for _ in range(10):
        two.look(Report(), LOOK)
        assert side.look(Report(), LOOK) is None
    leaving.join()


def test_strangers_are_not_listened_to(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)
    false = spoke(port, 1, token="guessed")
    junk = socket.create_connection(("localhost", port))
    junk.sendall(b"GET / HTTP/1.0\r\n\r\n")
    settle(side, one, two)
    false._heard.link.close()
    junk.close()
    settle(side, one, two)


class Pair:
    """Two ranks that are threads of this process."""

    def __init__(self, rank: int, meeting: list[str], barrier: threading.Barrier) -> None:
        self.rank, self.world_size, self._meeting, self._barrier = rank, 2, meeting, barrier

    def gather(self, text: str) -> list[str]:
        self._meeting[self.rank] = text
        self._barrier.wait(10)
        return list(self._meeting)


def test_a_whole_watch_ends_the_process_with_one_message(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    over = threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        if len(codes) == 2:
            over.set()

    servers: list[socket.socket] = []
    killed: list[int] = []
    monkeypatch.setattr(module, "_end", leave)
    # Both ranks are this process.
    monkeypatch.setattr(module.machine, "process", lambda process, began: SimpleNamespace(kill=lambda: killed.append(process)))
    monkeypatch.setattr(module, "listen", lambda: servers.append(listen()) or servers[0])
    meeting, barrier = ["", ""], threading.Barrier(2)
    watches: list[Any] = []
    makers = [
        threading.Thread(target=lambda r=rank: watches.append(watch(Launch(r, 2, r, "test"), Pair(r, meeting, barrier), 5.0, 0.5)))
        for rank in range(2)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(10)
    for one in watches:
        one.__enter__()
    assert over.wait(10), "nobody beats, so both hang"
    for one in watches:
        one._thread.join()
    servers[0].close()
    assert codes == [RANK_LOST, RANK_LOST]
    assert killed == [os.getpid()], "rank 1 ends rank 0, its neighbour, which hangs"
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "no step for 0.5 s" in errors[0] and f"rank 0 on {socket.gethostname()}" in errors[0]


class Told:
    """The ranks of a job, seen from one of them, with what the others say about themselves: (host, machine)."""

    def __init__(self, rank: int, port: int, others: dict[int, tuple[str, str]]) -> None:
        self.rank, self.world_size, self._port, self._others = rank, len(others) + 1, port, others

    def gather(self, text: str) -> list[str]:
        mine = json.loads(text)
        said = {rank: {**mine, "rank": rank, "host": host, "machine": there} for rank, (host, there) in self._others.items()}
        said[self.rank] = mine
        said[0]["port"] = self._port or said[0]["port"]
        return [json.dumps(said[rank]) for rank in range(self.world_size)]


HERE = machine.identity()


@pytest.mark.parametrize(
    ("others", "neighbours", "speaks"),
    [
        ({0: ("away", "x"), 1: ("here", HERE)}, {1}, False),
        ({0: ("away", "x"), 1: ("alias-of-here", HERE)}, {1}, False),  # one machine, two names
        ({0: ("away", "x"), 1: ("here", "another container")}, set(), True),  # two containers, one name
        ({0: ("alias-of-here", HERE), 1: ("here", "another container")}, {0}, True),
    ],
)
def test_a_machine_is_known_by_more_than_its_name(
    others: dict[int, tuple[str, str]], neighbours: set[int], speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    with listen() as server:
        made = watch(Launch(2, 3, 0, "test"), Told(2, server.getsockname()[1], others), 1.0, 1.0)
    assert isinstance(made, module.Watch)
    assert made._neighbours.keys() == neighbours, "ranks that this one may kill by their process number"
    assert made._speaks == speaks, "the first rank of each machine besides rank 0"


def test_a_process_number_that_means_another_process_here_is_no_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "began", lambda: 1e9)  # what ranks on a machine restored from the same image may say
    with listen() as server:
        made = watch(Launch(2, 3, 0, "test"), Told(2, server.getsockname()[1], {0: ("here", HERE), 1: ("here", HERE)}), 1.0, 1.0)
    assert isinstance(made, module.Watch) and not made._neighbours


def test_a_rank_that_comes_and_leaves_in_one_breath_is_not_dead(hub: tuple[Hub, int]) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    one.leave(0)
    settle(side, two)


@pytest.mark.parametrize(
    "words", [b"[" * 60000 + b"\n", b"[]\n", b"\xff\n", b'{"token": "guess", "index": 1}\n', b'{"token": "token", "index": 0}\n']
)
def test_strangers_do_not_disturb(hub: tuple[Hub, int], words: bytes) -> None:
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    with socket.create_connection(("localhost", port)) as stranger:
        stranger.sendall(words)
        settle(side, one, two)
    settle(side, one, two)
    assert set(side._heard) == {1, 2}


def test_many_strangers_are_not_all_kept(hub: tuple[Hub, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watchers, "STRANGERS", 2)
    side, port = hub
    one, two = spoke(port, 1), spoke(port, 2)
    settle(side, one, two)
    strangers = [socket.create_connection(("localhost", port)) for _ in range(12)]
    for _ in strangers:
        settle(side, one, two)
    assert len(side._strangers) <= 2 + len(MEMBERS) + 1
    for stranger in strangers:
        stranger.close()


def test_more_open_files_than_select_can_count() -> None:
    with ExitStack() as held:
        for _ in range(1030 // 2 + 1):
            for end in socket.socketpair():
                held.enter_context(end)
        one, other = socket.socketpair()
        held.enter_context(one)
        held.enter_context(other)
        assert one.fileno() >= 1024
        assert ready([one], 0.0) == []
        other.send(b".")
        assert ready([one], 5.0) == [one]


def test_a_network_that_computes_does_not_wait() -> None:
    engine, layer = "/x/deepspeed/runtime/engine.py", "/x/torch/nn/modules/module.py"
    gather, reduce = "/x/deepspeed/runtime/zero/parameter_offload.py", "/x/torch/distributed/distributed_c10d.py"
    assert not module._waits(["/x/torch/nn/modules/conv.py", layer, engine, layer])
    assert module._waits([reduce, gather, layer, engine]), "ZeRO-3 gathers the weights of a layer"
    assert module._waits([reduce, engine])
    assert not module._waits(["/x/volgen/data/stream.py"])


def test_a_single_process_has_nobody_to_watch() -> None:
    ranks = Pair(0, [""], threading.Barrier(1))
    ranks.world_size = 1
    before = threading.active_count()
    with watch(Launch(), ranks, 1.0, 1.0) as alone:
        assert isinstance(alone, Alone)
        assert threading.active_count() == before


def test_exit_codes_that_others_are_told() -> None:
    assert module._code(None) == 0
    assert module._code(SystemExit(85)) == 85
    assert module._code(OSError(28, os.strerror(28))) == 2
    assert module._code(ZeroDivisionError()) == 70
    assert module._code(KeyboardInterrupt()) == 128 + signal.SIGINT
