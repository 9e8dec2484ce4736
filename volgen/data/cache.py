"""Decoded scans, kept while they fit."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.images.box import BoxConfig


class CodeCache:
    """Least-recently-used scans as codes: a half or a quarter of the memory of float32. Safe to share between threads.

    Args:
        store: where they are.
        limit_bytes: most that is kept.
        box: what of each is read and kept.
    """

    def __init__(self, store: Store, limit_bytes: int, box: BoxConfig) -> None:
        self._store = store
        self._limit, self._box = limit_bytes, box
        self._held: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Memory in use."""
        return self._bytes

    def holds(self, records: Iterable[SubjectRecord]) -> bool:
        """Whether there is room for all of these scans."""
        return sum(math.prod(self._box.size) * np.dtype(record.dtype).itemsize for record in records) <= self._limit

    def codes(self, record: SubjectRecord) -> NDArray[Any]:
        """Codes [X, Y, Z] of the box; shared, so read-only."""
        with self._lock:
            if record.id in self._held:
                self._held.move_to_end(record.id)
                return self._held[record.id]
        codes = self._read(record)  # outside the lock: other threads decode meanwhile
        codes.flags.writeable = False
        with self._lock:
            if record.id not in self._held and codes.nbytes <= self._limit:
                self._held[record.id] = codes
                self._bytes += codes.nbytes
                while self._bytes > self._limit:
                    _, dropped = self._held.popitem(last=False)
                    self._bytes -= dropped.nbytes
        return codes

    def _read(self, record: SubjectRecord) -> NDArray[Any]:
        if self._box.size == record.shape:
            return self._store.read_codes(record)
        return self._store.read_window(record, self._box.place[1:])
