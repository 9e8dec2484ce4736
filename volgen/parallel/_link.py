"""Short JSON messages over a TCP connection that never blocks, whatever the other side does."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

LONGEST = 1 << 16
"""Bytes of one message at most: a stranger who connects must not fill the memory."""


class Link:
    """One end of a connection.

    Attributes:
        closed: the other side has closed it, or it is broken.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._in, self._out = connection, bytearray(), bytearray()
        self.closed = False

    def fileno(self) -> int:
        """The descriptor that ``select`` waits for."""
        return self._connection.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Sends as much as the system takes; the rest goes with the next message. Nothing is kept for a side that reads nothing."""
        if len(self._out) < LONGEST:
            self._out += json.dumps(message).encode() + b"\n"
        try:
            while self._out:
                del self._out[: self._connection.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def receive(self) -> list[dict[str, Any]]:
        """All messages that have arrived; the last ones before the end of the connection are not lost."""
        try:
            while data := self._connection.recv(LONGEST):
                self._in += data
                if len(self._in) > 4 * LONGEST:
                    break
            self.closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        *lines, rest = self._in.split(b"\n")
        self._in = rest
        try:
            messages = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):  # of a stranger
            messages = [None]
        if not all(isinstance(message, dict) for message in messages):
            self.closed = True
            return []
        return messages

    def finish(self) -> None:
        """Says that nothing more will come; :meth:`drained` then waits until the other side has read everything."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def drained(self, deadline: float) -> None:
        """Reads until the other side closes too, at most until ``deadline`` (of ``time.monotonic``), and closes.

        A socket closed with something unread in it resets the connection, and the other side may lose what was said last.
        """
        while not self.closed and (left := deadline - time.monotonic()) > 0:
            ready([self._connection], left)
            self.receive()
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()
        self.closed = True


def ready(sources: Iterable[Any], seconds: float) -> list[Any]:
    """Those of some sockets and links that can be read, after ``seconds`` at most. Unlike ``select``, beyond 1024 open files too."""
    with selectors.DefaultSelector() as selector:
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(seconds)]


def listen() -> socket.socket:
    """A listening socket on a free port of every interface, IPv6 too where there is any."""
    dual = socket.has_dualstack_ipv6()
    server = socket.create_server(("", 0), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual)
    server.setblocking(False)
    return server
