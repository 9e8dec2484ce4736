"""Files that the page of a study saved, as marks of readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.files import read_json
from volgen.evaluation.readings import MARKS, Readings

FORMAT = "volgen-readings"
CONSENSUS = "consensus"
"""Reader of the page of what was adjudicated: all of them together."""
EXPECTED = "a file that the page of this study saved"


@dataclass(frozen=True)
class StudyKey:
    """What readers must not know.

    Attributes:
        study: name of the study.
        structures: what gets a mark.
        names: what each volume is called.
        generated: whether each volume was generated.
        orders: numbers of volumes in the order in which each reader sees them.
    """

    study: str
    structures: Sequence[str]
    names: Sequence[str]
    generated: Sequence[bool]
    orders: Mapping[str, Sequence[int]]

    @classmethod
    def read(cls, path: Path) -> StudyKey:
        """The key of a study.

        Raises:
            UserError: it is none.
        """
        content = read_json(path, "key.json of volgen readers make")
        try:
            volumes = content["volumes"]
            names, generated = [str(one["name"]) for one in volumes], [not one["real"] for one in volumes]
            orders = {str(reader): [int(number) for number in order] for reader, order in content["readers"].items()}
            if any(not 0 <= number < len(names) for order in orders.values() for number in order):
                raise ValueError("an order names a volume that there is not")
            return cls(str(content["study"]), [str(name) for name in content["structures"]], names, generated, orders)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(str(path), f"has another form ({error})", "key.json of volgen readers make") from None


def read_answers(key: StudyKey, files: Sequence[Path]) -> Readings:
    """Answers of all readers.

    Args:
        key: the key of the study.
        files: one of each reader, and perhaps that of the adjudication.

    Raises:
        UserError: a file is not of this study or not of its form, or two are of one reader.
    """
    found: dict[str, tuple[Path, Sequence[Mapping[str, Any]]]] = {}
    for path in files:
        content = read_json(path, EXPECTED, follow=True)
        if content.get("format") != FORMAT or not isinstance(content.get("answers"), list):
            raise UserError(str(path), "has another form", EXPECTED)
        if content.get("study") != key.study:
            raise UserError(str(path), f"is of study {content.get('study')}", f"answers to study {key.study}")
        reader = str(content.get("reader"))
        if reader not in (*key.orders, CONSENSUS):
            raise UserError(str(path), f"is of reader '{reader}'", f"one of {', '.join(key.orders)}")
        if reader in found:
            raise UserError(str(path), f"is of reader {reader}, as {found[reader][0]} is", "one file of each reader")
        found[reader] = path, content["answers"]
    settled = found.pop(CONSENSUS, None)
    if not found:
        raise UserError("volgen readers score", "no reader's answers are given", "a file of at least one reader")
    readers = sorted(found)
    shape = (len(readers), len(key.names))
    first, again = ({name: np.full(shape, np.nan) for name in key.structures} for _ in range(2))
    confidence, confidence_again = np.full(shape, np.nan), np.full(shape, np.nan)
    for row, reader in enumerate(readers):
        path, answers = found[reader]
        if [one.get("volume") if isinstance(one, dict) else None for one in answers] != list(key.orders[reader]):
            raise UserError(str(path), "its volumes are not those of the study, in their order", EXPECTED)
        before: set[int] = set()
        for answer in answers:
            volume = answer["volume"]
            marks, sure = (again, confidence_again) if volume in before else (first, confidence)
            before.add(volume)
            for name, mark in _marks(path, key, answer).items():
                marks[name][row, volume] = mark
            sure[row, volume] = _confidence(path, answer)
    decided: dict[str, NDArray[np.float64]] = {}
    for answer in settled[1] if settled else ():
        path, volume = settled[0], answer.get("volume") if isinstance(answer, dict) else None  # type: ignore[index]
        if type(volume) is not int or not 0 <= volume < len(key.names):
            raise UserError(str(path), f"names volume {volume}", EXPECTED)
        for name, mark in _marks(path, key, answer).items():
            decided.setdefault(name, np.full(len(key.names), np.nan))[volume] = mark
    return Readings(readers, np.array(key.generated), first, again, confidence, confidence_again, decided)


def _marks(path: Path, key: StudyKey, answer: Mapping[str, Any]) -> dict[str, int]:
    marks = answer.get("marks")
    if not isinstance(marks, dict):
        raise UserError(str(path), "an answer has no marks", EXPECTED)
    for name, mark in marks.items():
        if name not in key.structures or type(mark) is not int or not 1 <= mark <= MARKS:
            raise UserError(str(path), f"marks '{name}' with {mark}", f"a structure of the study and a whole number from 1 to {MARKS}")
    return marks


def _confidence(path: Path, answer: Mapping[str, Any]) -> float:
    """How sure a reader is that a volume is generated, below 0 if it was called real; NaN where one of two answers is missing."""
    generated, sure = answer.get("generated"), answer.get("confidence")
    if generated is None or sure is None:
        return np.nan
    if type(generated) is not bool or type(sure) is not int or not 1 <= sure <= MARKS:
        raise UserError(
            str(path), f"is sure to {sure} that generated is {generated}", f"true or false, and a whole number from 1 to {MARKS}"
        )
    return float(sure if generated else -sure)
