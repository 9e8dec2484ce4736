"""The one ledger of a run: every noisy step of every network, whoever trains it, is in it before it is taken.

``privacy_journal.jsonl`` is the ledger: lines are only ever appended, under a lock, and are on the disk before the step that they announce.
So what is killed between the line and the step is counted although it never was, and what is trained again after a kill is counted
again. ``privacy_ledger.json`` is its summary, for others to read.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from volgen.core import ledger as ledgers
from volgen.core.errors import UserError
from volgen.core.files import open_plain, sync, write_json
from volgen.core.lock import Lock
from volgen.core.numbers import finite, whole_number
from volgen.core.registry import kinds, module
from volgen.core.run_files import JOURNAL, LEDGER, LEDGER_LOCK
from volgen.privacy import plans
from volgen.privacy.accounting import Accountant, Steps, epsilon, replace_one
from volgen.privacy.mechanism import NoisyStep
from volgen.privacy.plans import UNNAMED

Choice = TypeVar("Choice")

LOST = "unknown"
"""Scope of lines that cannot be read: they count as steps all the same."""
AHEAD = (1024, 256, 64, 16, 4, 1)
"""Further steps that a look at the accountant clears at once, if the budget allows: one look takes a second, and a step may too."""
RESTORE = "restore it from a copy, or give the run another `name` and train it anew"
BEGIN_AGAIN = "begin again: give the run another `name`, and release nothing of this one as private"
Neighbouring = Literal["zero-out", "add-or-remove-one"]
RELATIONS: Mapping[Neighbouring, tuple[str, ...]] = {
    "zero-out": ("zero-out",), "add-or-remove-one": ("add-or-remove-one", "zero-out"),
}  # fmt: skip
"""All relations that are bounded by the same number as each. ``replace-one`` is bounded too, by a number of its own."""
REPLACE = "replace-one"


@dataclass(frozen=True)
class Budget:
    """What a run may spend.

    Attributes:
        epsilon: positive.
        delta: in (0, 1).
        accountant: how it is measured.
    """

    epsilon: float
    delta: float
    accountant: Accountant


class BudgetSpent(Exception):
    """One more step would cost more than the run may spend."""


class Ledger:
    """A run's journal, opened. Several processes may have it open; each sees what the others append.

    Args:
        directory: the run.

    Raises:
        UserError: there is none, or it is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._path, self._lock = directory / JOURNAL, directory / LEDGER_LOCK
        self._offset = 0
        self._lines = self._next = 0
        self._counts: Counter[tuple[str, NoisyStep]] = Counter()
        self._cleared: Counter[NoisyStep] = Counter()
        header = self._header()
        try:
            outdated = ledgers.outdated(ledgers.version_of(header))
            if outdated:
                expected = f"a ledger of version {ledgers.VERSION}"
                raise UserError(str(self._path), outdated, expected, BEGIN_AGAIN)
            self.budget, self.mechanism = _budget(header["budget"]), _mechanism(header["mechanism"])
            self.planned = whole_number(header["planned_steps"])
            self.neighbouring: Neighbouring = _one_of(header["neighbouring"], RELATIONS)
            self.assumed = _mapping(header["assumed"])
        except UserError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(str(self._path), f"its first line has another form ({error!r})", "a privacy journal", RESTORE) from None
        with Lock.wait(self._lock):
            self._read()

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether the run has one."""
        return (directory / JOURNAL).exists()

    @classmethod
    def create(
        cls, directory: Path, budget: Budget, mechanism: NoisyStep, planned: int, assumed: Mapping[str, Any],
        neighbouring: Neighbouring = "zero-out",
    ) -> Ledger:  # fmt: skip
        """Begins a journal.

        Args:
            directory: the run.
            budget: what it may spend.
            mechanism: what lines that cannot be read count as.
            planned: steps that the noise was chosen for.
            assumed: what the numbers rest on and a reviewer has to know.
            neighbouring: which two cohorts the budget compares: one patient's scans count for nothing in one of them (``zero-out``; then
                the number of patients is public), or one has a patient more.

        Raises:
            FileExistsError: there is one: nothing is ever forgotten.
        """
        header = {
            "version": ledgers.VERSION, "randomness": ledgers.RANDOMNESS, "neighbouring": neighbouring, "budget": asdict(budget),
            "mechanism": _recorded(mechanism), "planned_steps": planned, "assumed": dict(assumed),
        }  # fmt: skip
        descriptor = os.open(directory / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            _write(descriptor, json.dumps(header, allow_nan=False) + "\n")
        finally:
            os.close(descriptor)
        sync(directory)
        return cls(directory)

    def take(self, scope: str, step: int, mechanism: NoisyStep) -> None:
        """Enters one step, and returns when it is on the disk; only then may the step be taken.

        Args:
            scope: name of the network that is trained.
            step: number of the step in it, from 1, for people.
            mechanism: what the step is.

        Raises:
            BudgetSpent: it would cost too much; nothing was entered.
            UserError: the journal is gone, became shorter, or cannot be written.
        """
        with Lock.wait(self._lock):
            self._read()
            counts = self._totals()
            counts[mechanism] += 1
            if not self._fits(counts, mechanism):
                raise BudgetSpent
            line = {"n": self._next, "scope": scope, "step": step, "mechanism": _recorded(mechanism)}
            self._append(json.dumps(line, allow_nan=False) + "\n")
            self._read()

    def count(self, scope: str | None = None) -> int:
        """Steps entered for one network, or for all and those that cannot be told; as of the last look at the file."""
        if scope is None:
            return sum(self._totals().values())
        return sum(count for (name, _), count in self._counts.items() if name == scope)

    def steps(self) -> list[Steps]:
        """All steps entered, as the accountant takes them; as of the last look at the file."""
        return self._steps(self._totals())

    def check(self, scope: str, steps: int) -> None:
        """Makes sure that a network's steps are all in the journal: fewer would mean that it was lost and begun anew.

        Raises:
            UserError: they are not.
        """
        with Lock.wait(self._lock):
            self._read()
        if self.count(scope) < steps:
            found = f"knows of {self.count(scope)} steps of '{scope}', which has {steps} behind it"
            raise UserError(str(self._path), found, "every step that was ever taken", RESTORE)

    def epsilon(self) -> float:
        """What has been spent so far, an upper bound: with all networks together."""
        with Lock.wait(self._lock):
            self._read()
        return self._cost(self._totals())

    def epsilon_of_replacing(self) -> float:
        """The same for cohorts of which one has another patient in the place of one; infinite if it cannot be told."""
        return replace_one(self._steps(self._totals()), self.budget.delta)

    def summary(self, *, finished: bool) -> dict[str, Any]:
        """Content of ``privacy_ledger.json``.

        Args:
            finished: nothing more will be trained. Until then epsilon is the whole budget, so that the file is right whenever it is read.
        """
        spent = self.epsilon()
        claimed = spent if finished else max(spent, self.budget.epsilon)
        return {
            "version": ledgers.VERSION,
            "randomness": ledgers.RANDOMNESS,
            "unit": "patient",
            "neighbouring": self.neighbouring,
            "delta": self.budget.delta,
            "epsilon": claimed,
            "accountant": self.budget.accountant,
            "guarantees": [
                *(self._guarantee(relation, claimed, self.budget.accountant) for relation in RELATIONS[self.neighbouring]),
                *([self._guarantee(REPLACE, self.epsilon_of_replacing(), "pld")] if finished else []),
            ],
            "state": "finished" if finished else "training",
            "budget": self.budget.epsilon,
            "entries": [
                _entry(scope, mechanism, count)
                for (scope, mechanism), count in sorted(self._with_lost().items(), key=lambda item: (item[0][0], -item[1]))
            ],
            "assumed": dict(self.assumed),
        }  # fmt: skip

    def write_summary(self, *, finished: bool) -> None:
        """Writes the run's ``privacy_ledger.json``."""
        write_json(self._path.with_name(LEDGER), self.summary(finished=finished))

    def _with_lost(self) -> Counter[tuple[str, NoisyStep]]:
        counts = self._counts.copy()
        # Lines are numbered: where some are missing between others, their number is known.
        lost = max(self._next - self._lines, 0)
        if lost:
            counts[LOST, self.mechanism] += lost
        return counts

    def _totals(self) -> Counter[NoisyStep]:
        totals: Counter[NoisyStep] = Counter()
        for (_, mechanism), count in self._with_lost().items():
            totals[mechanism] += count
        return totals

    def _guarantee(self, relation: str, bound: float, accountant: str) -> dict[str, Any]:
        told = bound if math.isfinite(bound) else None
        return {"neighbouring": relation, "epsilon": told, "delta": self.budget.delta, "accountant": accountant}

    def _steps(self, counts: Mapping[NoisyStep, int]) -> list[Steps]:
        return [mechanism.cost(count) for mechanism, count in counts.items()]

    def _cost(self, counts: Mapping[NoisyStep, int]) -> float:
        return epsilon(self._steps(counts), self.budget.delta, self.budget.accountant)

    def _fits(self, counts: Counter[NoisyStep], mechanism: NoisyStep) -> bool:
        """Whether counts stay within the budget. Fewer steps never cost more, so what was cleared once clears all below it."""
        if all(count <= self._cleared[each] for each, count in counts.items()):
            return True
        rest = self.planned - sum(counts.values())
        for ahead in sorted({*AHEAD, max(rest, 0) + 1}, reverse=True):
            further = counts.copy()
            further[mechanism] += ahead - 1
            if self._cost(further) <= self.budget.epsilon:
                self._cleared = further
                return True
        return False

    def _header(self) -> dict[str, Any]:
        try:
            with open_plain(self._path) as file:
                first = file.readline()
            content = json.loads(first)
        except FileNotFoundError:
            raise UserError(str(self._path), "there is no such file", "the privacy journal of this run", RESTORE) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(str(self._path), f"its first line cannot be read ({error})", "a privacy journal", RESTORE) from None
        if not isinstance(content, dict) or not first.endswith(b"\n"):
            raise UserError(str(self._path), "its first line has another form", "a privacy journal", RESTORE)
        self._offset = len(first)
        return content

    def _read(self) -> None:
        """Takes in what was appended since the last look."""
        try:
            with open_plain(self._path) as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    raise UserError(str(self._path), "has become shorter", "a journal that only grows", RESTORE)
                file.seek(self._offset)
                fresh = file.read()
        except FileNotFoundError:
            raise UserError(str(self._path), "is gone", "the privacy journal of this run", RESTORE) from None
        whole = fresh[: fresh.rfind(b"\n") + 1]
        for text in whole.splitlines():
            self._enter(text)
        self._offset += len(whole)

    def _enter(self, text: bytes) -> None:
        try:
            line = json.loads(text)
            scope, mechanism, number = str(line["scope"]), _mechanism(line["mechanism"]), whole_number(line["n"])
        except (ValueError, KeyError, TypeError, RecursionError):
            scope, mechanism, number = LOST, self.mechanism, self._next
        self._counts[scope, mechanism] += 1
        self._lines += 1
        self._next = max(self._next, number + 1)

    def _append(self, text: str) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                # A process that was killed while it wrote, or a full disk, leaves a part of a line: that stays, and counts as a step.
                end = os.lseek(descriptor, 0, os.SEEK_END)
                if end and os.pread(descriptor, 1, end - 1) != b"\n":
                    text = "\n" + text
                _write(descriptor, text)
            finally:
                os.close(descriptor)
        except OSError as error:
            do = "make room; the same command then goes on from the last good checkpoint"
            raise UserError(str(self._path), f"cannot be written ({error.strerror or error})", "room and permission to write", do) from None


def _one_of(value: object, allowed: Iterable[Choice]) -> Choice:
    for choice in allowed:
        if value == choice:
            return choice
    raise ValueError(f"{value!r} is none of {', '.join(map(str, allowed))}")


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no JSON object")
    return value


def _budget(content: object) -> Budget:
    known = _mapping(content)
    budget = Budget(finite(known["epsilon"]), finite(known["delta"]), _one_of(known["accountant"], get_args(Accountant)))
    if not (budget.epsilon > 0.0 and 0.0 < budget.delta < 1.0):
        raise ValueError(f"{budget} cannot be spent")
    return budget


def costs(entries: Iterable[Mapping[str, Any]]) -> list[Steps]:
    """What the entries of a summary cost, as the accountant takes them.

    Raises:
        KeyError, TypeError, ValueError: one has another form.
    """
    told = [{**entry, "count": entry["steps"], **entry.get("cost", {})} for entry in entries]
    return [Steps(float(each["sampling_rate"]), float(each["noise_multiplier"]), int(each["count"])) for each in told]


def _entry(scope: str, mechanism: NoisyStep, count: int) -> dict[str, Any]:
    """Steps of one network in a summary, with what they cost where that is not what they are."""
    rate, noise, cost = mechanism.sampling_rate, mechanism.noise_multiplier, mechanism.cost(count)
    told = {"sampling_rate": rate, "noise_multiplier": noise, "clip_norm": mechanism.clip_norm, **vars(mechanism)}
    beside = {} if cost == Steps(rate, noise, count) else {"cost": asdict(cost)}
    return {"scope": scope, "mechanism": mechanism.name, **told, "steps": count, **beside}


def _recorded(mechanism: NoisyStep) -> dict[str, Any]:
    """The form of a mechanism in the journal."""
    return {**({} if mechanism.plan == UNNAMED else {"plan": mechanism.plan}), **vars(mechanism)}


def _mechanism(content: object) -> NoisyStep:
    known = dict(_mapping(content))
    kind = _one_of(known.pop("plan", UNNAMED), kinds(plans.__name__))
    found = getattr(module(plans.__name__, kind), "Mechanism", None)
    if found is None:
        raise ValueError(f"'{kind}' takes no noisy steps")
    mechanism: NoisyStep = found(**{field.name: finite(known[field.name]) for field in fields(found)})
    if not mechanism.sound:
        raise ValueError(f"{mechanism} is no noisy step")
    return mechanism


def _write(descriptor: int, text: str) -> None:
    content = text.encode()
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)
