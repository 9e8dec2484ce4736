"""What a store's table says of people, as numbers that are learnt; and their scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volgen.bench._shared.learner import Kind, Numbers
from volgen.core.cells import numeric
from volgen.core.errors import UserError, nearest_word
from volgen.data.record import Split, SubjectRecord, by_patient
from volgen.data.store import Store


@dataclass(frozen=True)
class Learnt:
    """What is predicted.

    Attributes:
        name: column of the table of people.
        words: the two that there are; none for numbers.
    """

    name: str
    words: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """What it is to a learner."""
        return "words" if self.words else "number"

    @classmethod
    def of(cls, store: Store, name: str) -> Learnt:
        """The column of a store.

        Raises:
            UserError: there is none, or it has not two words.
        """
        columns = store.covariates.columns
        if name not in columns:
            expected = f"one of {', '.join(columns)}" if columns else "a store that knows something of people (volgen participants)"
            raise UserError(f"--target {name}", f"{store.path} knows no such thing of people", expected, nearest_word(name, columns))
        words = tuple(columns[name].levels or ())
        if columns[name].levels is not None and len(words) != 2:
            raise UserError(f"--target {name}", f"it has {len(words)} different words", "numbers, or two words")
        return cls(name, words)

    def value(self, cell: str) -> float:
        """What a cell of the table says; NaN if it says nothing."""
        if self.words:
            return 2.0 * self.words.index(cell) - 1.0 if cell in self.words else float("nan")
        found = numeric(cell)
        return float("nan") if found is None else found

    def values(self, records: Sequence[SubjectRecord]) -> Numbers:
        """What is known of people; NaN where nothing is."""
        return np.array([self.value(record.covariates.get(self.name, "")) for record in records])

    @classmethod
    def of_numbers(cls, store: Store, name: str) -> Learnt:
        """A column of numbers of a store.

        Raises:
            UserError: there is none.
        """
        found = cls.of(store, name)
        if found.words:
            raise UserError(str(store.path), f"'{name}' is one of the words {', '.join(found.words)}", "a column of numbers")
        return found


def first_scans(store: Store, split: Split) -> list[SubjectRecord]:
    """The first scan of each person of a split."""
    return [scans[0] for scans in by_patient(store.split(split)).values()]


def unit_voxels(store: Store, records: Sequence[SubjectRecord]) -> NDArray[np.float32]:
    """Scans [N, voxels] in [0, 1]."""
    return np.stack([store.read_unit(record).reshape(-1) for record in records])
