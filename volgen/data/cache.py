"""What was decoded, kept while it fits."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from numpy.typing import NDArray


class Cache:
    """Least-recently-used arrays, read-only because they are shared. Safe to share between threads.

    Args:
        limit_bytes: most that is kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self._held: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Memory in use."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What is kept under a key; made if it is not."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = make()  # outside the lock: other threads decode meanwhile
        made.flags.writeable = False
        with self._lock:
            if key not in self._held and made.nbytes <= self.limit:
                self._held[key] = made
                self._bytes += made.nbytes
                while self._bytes > self.limit:
                    _, dropped = self._held.popitem(last=False)
                    self._bytes -= dropped.nbytes
        return made
