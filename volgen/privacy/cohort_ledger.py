"""The ledger of a cohort: every private run, audit and release that its store has seen, for budgets that add up over runs.

``<store>.privacy.jsonl`` lies beside the store, so that no reader of Zarr trips over it. Lines are only ever appended, under a lock, and
are on the disk before what they announce: a private run is in it before its first step, with the most steps that it can take, and once
more when it is finished, with those that it took. A run that is deleted stays in it: what was spent is spent.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from volgen.core.files import open_plain, sync
from volgen.privacy.accounting import Accountant, Steps, epsilon

SUFFIX = ".privacy.jsonl"
LARGEST = 2**28
"""Bytes that such a ledger may have."""
ASSUMED = "cohort_ledger"
"""Key in what a run's ledger assumes: whether the ledger of its cohort knows of it."""
ENTRY = "cohort"
"""Key likewise, of ``{"entry": what the run is called there}``."""
KEPT = "this run is entered in the ledger beside the store, which adds up the private runs of the cohort"
MISSING = "this run could not be entered in a ledger beside the store ({why}): nobody adds it to other runs of the cohort"
RUN, AUDIT, RELEASE = "run", "audit", "release"


@dataclass(frozen=True)
class Spent:
    """What a cohort has seen.

    Attributes:
        runs: the steps of each private run, by what it is called in the ledger.
        unfinished: those of these runs that are not finished, or were deleted before: their steps are the most that they can have taken.
        audits: number of audits that looked at the cohort.
        refuted: fingerprints of runs whose ledger an audit refuted.
        unprotected: number of runs without privacy that were released.
        unreadable: lines that cannot be read: what they say is not counted.
        others: number of private runs of other cohorts at the same place, such as this one before it grew: not counted either.
    """

    runs: Mapping[str, tuple[Steps, ...]]
    unfinished: frozenset[str]
    audits: int
    refuted: frozenset[str]
    unprotected: int
    unreadable: int
    others: int

    def epsilon(self, delta: float, accountant: Accountant) -> float:
        """Upper bound on the epsilon of all private runs together; one patient is left out of all of them, or of none."""
        return epsilon([steps for run in self.runs.values() for steps in run], delta, accountant)


class CohortLedger:
    """The ledger beside a store.

    Args:
        store: a folder, or an address, as a configuration has it.
        fingerprint: the cohort's: a store of another one at the same place has lines of its own.
    """

    def __init__(self, store: str, fingerprint: str) -> None:
        self._remote, self._fingerprint = "://" in store, fingerprint
        folder = Path(store).resolve()  # one ledger, by whatever link the store is reached
        self.path = folder.with_name(folder.name + SUFFIX)

    def obstacle(self) -> str:
        """Why nothing can be entered; empty if it can."""
        if self._remote:
            return "the store is remote"
        try:
            with self._open("ab+"):
                return ""
        except OSError as error:
            return error.strerror or str(error)

    def enter_run(self, identity: str, steps: Iterable[Steps], *, finished: bool) -> None:
        """Enters a private run, before its first step and when it is finished; returns when that is on the disk.

        Args:
            identity: the same for both, and no other run's.
            steps: the most that it can take from now on and has taken, or what it took.
            finished: whether these are all that it took.

        Raises:
            OSError: it cannot be written.
        """
        self._enter({"event": RUN, "identity": identity, "finished": finished, "steps": [asdict(each) for each in steps]})

    def enter_audit(self, run: str, *, refuted: bool) -> None:
        """Enters that an audit of a run (its fingerprint) looked at the cohort.

        Raises:
            OSError: it cannot be written.
        """
        self._enter({"event": AUDIT, "run": run, "refuted": refuted})

    def enter_release(self, run: str, *, private: bool) -> None:
        """Enters that a run (its fingerprint) was released.

        Raises:
            OSError: it cannot be written.
        """
        self._enter({"event": RELEASE, "run": run, "private": private})

    def spent(self) -> Spent | None:
        """What the ledger knows; None if there is none, or it cannot be read."""
        if self._remote:
            return None
        try:
            with self._open("rb") as file:
                content = file.read()
        except OSError:
            return None
        lines, unreadable = [], 0
        for text in content.splitlines():
            try:
                lines.append(_line(text))
            except (KeyError, RecursionError, TypeError, ValueError):
                unreadable += 1
        others = {line["identity"] for line in lines if line["fingerprint"] != self._fingerprint and line["event"] == RUN}
        return _summed([line for line in lines if line["fingerprint"] == self._fingerprint], unreadable, len(others))

    def _enter(self, line: Mapping[str, Any]) -> None:
        if self._remote:
            raise OSError(errno.EROFS, "the store is remote", str(self.path))
        text = json.dumps({"fingerprint": self._fingerprint, **line}, allow_nan=False) + "\n"
        with self._open("ab+") as file:
            # A process that was killed while it wrote leaves a part of a line, which stays and is no part of the next one.
            if end := file.seek(0, os.SEEK_END):
                file.seek(end - 1)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        sync(self.path.parent)

    @contextmanager
    def _open(self, mode: Any) -> Iterator[IO[bytes]]:
        with open_plain(self.path, mode, limit=LARGEST) as file:
            fcntl.flock(file, fcntl.LOCK_SH if mode == "rb" else fcntl.LOCK_EX)
            yield file


def _line(text: bytes) -> dict[str, Any]:
    """A line of the right form.

    Raises:
        KeyError, RecursionError, TypeError, ValueError: it has another one.
    """
    line = json.loads(text)
    if not isinstance(line, dict) or not isinstance(line["fingerprint"], str):
        raise TypeError("no line of this ledger")
    if line["event"] == RUN:
        steps = tuple(Steps(float(e["sampling_rate"]), float(e["noise_multiplier"]), int(e["count"])) for e in line["steps"])
        if any(not (0.0 < e.sampling_rate <= 1.0 and 0.0 < e.noise_multiplier < float("inf") and e.count >= 0) for e in steps):
            raise ValueError("no steps")
        return {**line, "identity": str(line["identity"]), "finished": line["finished"] is True, "steps": steps}
    if line["event"] in (AUDIT, RELEASE):
        return {**line, "run": str(line["run"])}
    raise ValueError("an event that this volgen does not know")


def _summed(lines: Iterable[Mapping[str, Any]], unreadable: int, others: int) -> Spent:
    runs: dict[str, tuple[Steps, ...]] = {}
    finished: set[str] = set()
    audits, refuted, unprotected = 0, set(), set()
    for line in lines:
        if line["event"] == RUN:
            # Several launches, several lines, of which the last one counts: also of a finished run that lost a network and is trained on.
            identity = line["identity"]
            runs[identity] = line["steps"]
            (finished.add if line["finished"] else finished.discard)(identity)
        elif line["event"] == AUDIT:
            audits += 1
            refuted |= {line["run"]} if line.get("refuted") is True else set()
        else:
            unprotected |= {line["run"]} if line.get("private") is False else set()
    return Spent(runs, frozenset(runs.keys() - finished), audits, frozenset(refuted), len(unprotected), unreadable, others)
