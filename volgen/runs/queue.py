"""What a run still has to train, and who does it: any number of processes share it through the files of the run directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from volgen.core.folder import LOCK
from volgen.core.lock import Lock, holder
from volgen.core.progress import say
from volgen.experts.plan import Phase, blocker
from volgen.runs.paths import Paths
from volgen.runs.record import PhaseRecord

SECONDS_BETWEEN_WORDS = 600.0
SECONDS_BETWEEN_CHECKS = 20.0
SECONDS_UNTRAINED = 600.0
"""How long to wait for a network that nobody trains: a job that will may be about to start. Then this one makes room for it."""


@dataclass(frozen=True)
class Wait:
    """Nothing can be begun now.

    Attributes:
        needed: phase that has to be finished first.
        by: who is training it; None if nobody is.
        reason: both, and why, for people.
    """

    needed: Phase
    by: str | None
    reason: str


class Queue:
    """Gives out phases, each to one process at a time. For the rank that speaks for its crew.

    Args:
        paths: where the files of the run are.
        phases: the whole plan.
        wanted: those that may be given out, in the order of the plan.
    """

    def __init__(self, paths: Paths, phases: Sequence[Phase], wanted: Sequence[Phase]) -> None:
        self._paths, self._phases, self._wanted = paths, phases, wanted
        self._records: dict[str, PhaseRecord] = {}
        self._claim: Lock | None = None
        self._checked = 0.0

    @property
    def records(self) -> dict[str, PhaseRecord]:
        """What is finished by now, whoever trained it."""
        for phase in self._phases:
            if phase.name not in self._records and (record := PhaseRecord.read(self._paths.phase(phase.name))):
                self._records[phase.name] = record
        return self._records

    @property
    def complete(self) -> bool:
        """Whether the whole plan is trained."""
        return len(self.records) == len(self._phases)

    def next(self) -> Phase | Wait | None:
        """A phase that now belongs to this process until :meth:`done` or :meth:`close`; what to wait for; or None: all are finished."""
        waiting: Wait | None = None
        for phase in self._wanted:
            if phase.name in self.records:
                continue
            needed = blocker(phase, self._phases, self._records)
            if needed is None:
                claim = Lock.take(self._paths.phase(phase.name) / LOCK)
                if claim is not None and PhaseRecord.read(self._paths.phase(phase.name)) is None:
                    self._claim = claim
                    return phase
                if claim is not None:  # finished between a look at the records and the lock
                    claim.release(remove=True)
                    return self.next()
            waiting = waiting or self._wait(phase, needed or phase)
        return waiting

    def _wait(self, phase: Phase, needed: Phase) -> Wait:
        by = holder(self._paths.phase(needed.name) / LOCK)
        doing = f"which {by} is training" if by else "which nobody is training"
        why = "" if needed is phase else f": {phase.label} starts from it" + ("" if phase.start == needed.name else ", by way of others")
        return Wait(needed, by, f"{needed.label}, {doing}{why}")

    def beat(self) -> None:
        """Makes sure, now and then, that what was given out still belongs to this process.

        Raises:
            UserError: another one has taken it: this file system's locks end at the machine.
        """
        if self._claim is not None and time.monotonic() - self._checked > SECONDS_BETWEEN_CHECKS:
            self._claim.check()
            self._checked = time.monotonic()

    def done(self, phase: Phase, record: PhaseRecord) -> None:
        """Marks a phase as finished and lets go of it.

        Raises:
            UserError: another process has taken it meanwhile.
        """
        assert self._claim is not None, "a phase is trained by whom it was given to"
        self._claim.check()
        record.write(self._paths.phase(phase.name))
        self._claim.release(remove=True)
        self._claim = None

    def close(self) -> None:
        """Lets go of a phase that is not finished; another process may go on with it."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None


class Patience:
    """Says what is waited for, at once and now and then, and gives up on what nobody trains."""

    def __init__(self) -> None:
        self._seen = time.monotonic()
        self._said = 0.0
        self._told = ""

    def bear(self, wait: Wait) -> bool:
        """Takes in what one more look has found; whether to go on waiting, which ends when nobody has trained what is needed for long."""
        now = time.monotonic()
        if wait.by:
            self._seen = now
        if now - self._seen > SECONDS_UNTRAINED:
            do = "Start the job that trains it, then this one again; or give --only a range that begins where a chain begins."
            say(f"Waited {SECONDS_UNTRAINED:.0f} s in vain for {wait.reason}. {do}")
            return False
        if wait.reason != self._told or now - self._said > SECONDS_BETWEEN_WORDS:
            self._told, self._said = wait.reason, now
            say(f"Waiting for {wait.reason}.")
        return True
