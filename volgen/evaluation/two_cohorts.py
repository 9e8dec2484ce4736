"""Generated volumes and real ones side by side: what extractors kept of each, and what comparisons make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.floor import DRAWS, Floored, Parting, Statistic, floored
from volgen.evaluation.space import FeatureSpace
from volgen.evaluation.specimen import Specimen

Vector = NDArray[Any]
Kept = Mapping[str, Vector]
"""What an extractor keeps of a volume, by part."""


@dataclass(frozen=True)
class Quantity:
    """One number of a volume.

    Attributes:
        name: key of the number.
        label: what it is, in words.
        unit: its unit; empty of a share or ratio.
    """

    name: str
    label: str
    unit: str = ""


class Extractor(Protocol):
    """What every file in ``volgen/evaluation/extractors`` offers as ``Config``: what is kept of a volume.

    Attributes:
        kind: name of the extractor.
        label: what it looks at, in words.
        distances: whether distances are taken between what it keeps.
        standardise: whether its values have different units, so that each is divided by its standard deviation among real people.
    """

    kind: str
    label: ClassVar[str]
    distances: ClassVar[bool]
    standardise: ClassVar[bool]

    def quantities(self) -> tuple[Quantity, ...]:
        """What its values are called, where they are numbers that people know; else nothing."""
        ...

    def declared(self) -> Mapping[str, str]:
        """``name``, ``sha256`` of weights or constants, ``layer`` and ``preprocessing``."""
        ...

    def extract(self, specimen: Specimen) -> Kept:
        """What is kept of a volume: vectors by part; the part is empty where there is one only."""
        ...


@dataclass(frozen=True)
class CohortNumber:
    """A number of two cohorts, with what it is worth.

    Attributes:
        name: key, unique within its comparison.
        label: what it is, in words.
        extractor: extractor and part that it was taken from.
        parting: how many volumes stand on which side.
        floored: value, interval, floor and band; None where there are too few volumes.
        words: why it was reduced or refused; empty if it was not.
        means: numbers that it was made of, such as the mean of either side.
        percentiles: the 2.5th, 25th, 50th, 75th and 97.5th of either side, where it is a number of single volumes.
    """

    name: str
    label: str
    extractor: str
    parting: Parting
    floored: Floored | None
    words: str = ""
    means: Mapping[str, float] = field(default_factory=dict)
    percentiles: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """An entry of ``evaluation.json``."""
        found = self.floored
        return {
            "name": self.name, "label": self.label, "extractor": self.extractor,
            "n": {"generated": self.parting.ours, "real": self.parting.real, "fitted": self.parting.fitted},
            "value": found.value if found else None, "interval": list(found.interval) if found and found.interval else None,
            "floor": {"mean": found.floor, "band": list(found.band), "draws": DRAWS} if found else None,
            "inside": found.inside if found else None, "words": self.words, "means": dict(self.means),
            "percentiles": {side: list(values) for side, values in self.percentiles.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class CohortFindings:
    """What a comparison found.

    Attributes:
        kind: the comparison.
        title: what it asks, in words.
        numbers: what it measured.
        skipped: why it measured nothing; empty if it did.
        more: anything else, JSON-able.
        paper: where the comparison was published, as a list of references has it; empty if it is nobody's.
    """

    kind: str
    title: str
    numbers: Sequence[CohortNumber] = ()
    skipped: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""

    def to_json(self) -> dict[str, Any]:
        """An entry of ``evaluation.json``."""
        return {**asdict(self), "numbers": [number.to_json() for number in self.numbers], "more": dict(self.more)}


@dataclass
class TwoCohorts:
    """Rows of features: generated volumes first, real people after them.

    Attributes:
        ours: number of generated volumes.
        real: number of real people.
        trained: whether each real person was trained on.
        rows: [ours + real, values] by ``extractor`` or ``extractor.part``; parts of which some volume has another size are left out.
        shapes: shape of one volume's values, by the same name.
        extractors: what was used.
        ages: years by volume, NaN where unknown.
        odd: why parts are not there, by name.
        seed: seed of every draw.
    """

    ours: int
    real: int
    trained: NDArray[np.bool_]
    rows: Mapping[str, Vector]
    shapes: Mapping[str, tuple[int, ...]]
    extractors: Sequence[Extractor]
    ages: NDArray[np.float64]
    odd: Mapping[str, str]
    seed: int
    _spaces: dict[str, FeatureSpace] = field(default_factory=dict)

    @property
    def people(self) -> NDArray[np.int64]:
        """Rows of real people."""
        return self.ours + np.arange(self.real)

    def extractor(self, kind: str) -> Extractor | None:
        """The extractor of this kind, if it was used."""
        return next((one for one in self.extractors if one.kind == kind), None)

    def distances(self) -> dict[str, str]:
        """Parts that distances are taken in, and what each looks at."""
        return {
            name: f"{one.label}{PLANES.get(name.partition('.')[2], '')}"
            for one in self.extractors if one.distances for name in self.rows if name.partition(".")[0] == one.kind
        }  # fmt: skip

    def space(self, part: str) -> FeatureSpace:
        """Coordinates of every row in what an extractor kept; made once."""
        if part not in self._spaces:
            one = self.extractor(part.partition(".")[0])
            assert one is not None
            self._spaces[part] = FeatureSpace(self.rows[part], standardise=one.standardise, scale=self.people)
        return self._spaces[part]

    def floored(self, statistic: Statistic, parting: Parting) -> dict[str, Floored]:
        """Numbers with floor, band and interval."""
        return floored(statistic, self.ours, self.real, parting, self.seed)


PLANES = {"S": ", axial", "A": ", coronal", "R": ", sagittal"}


class CohortComparison(Protocol):
    """What every file in ``volgen/evaluation/comparisons`` offers as ``Config``.

    Attributes:
        kind: name of the comparison.
        place: where it stands among the others.
        paper: where it was published, as a list of references has it; empty if it is nobody's.
    """

    kind: str
    place: ClassVar[int]
    paper: ClassVar[str]

    def compare(self, both: TwoCohorts) -> CohortFindings:
        """Compares generated volumes with real people."""
        ...


def pooled(
    ours: Sequence[Mapping[str, Kept]], real: Sequence[Mapping[str, Kept]], *, trained: Sequence[bool], ages: Sequence[float],
    extractors: Sequence[Extractor], seed: int,
) -> TwoCohorts:  # fmt: skip
    """Two cohorts from what was kept of each volume.

    Args:
        ours: what each extractor kept of each generated volume, by kind and part.
        real: the same of real people.
        trained: whether each real person was trained on.
        ages: years of each volume, generated ones first.
        extractors: what was used.
        seed: seed of every draw.
    """
    everybody = [*ours, *real]
    rows, shapes, odd = {}, {}, {}
    for one in extractors:
        for part in everybody[0][one.kind]:
            name = f"{one.kind}.{part}" if part else one.kind
            vectors = [kept[one.kind].get(part) for kept in everybody]
            known = [vector.shape for vector in vectors if vector is not None]
            if len(known) < len(vectors) or len(set(known)) > 1:
                odd[name] = "volumes have different shapes"
                continue
            shapes[name] = known[0]
            rows[name] = np.stack([np.ravel(vector) for vector in vectors if vector is not None])
    return TwoCohorts(
        len(ours), len(real), np.asarray(trained, dtype=bool), rows, shapes, extractors, np.asarray(ages, dtype=np.float64), odd, seed
    )
