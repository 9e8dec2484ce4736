"""What is learnt from volumes in studies of use: a number such as the age, or one of two words such as the sex, by ridge regression.

Features are principal components of the volumes that are learnt from, found from products of volumes alone, because there are far more
voxels than people (Turk and Pentland 1991, section 2). Components in which nothing varies are left out: volumes that are drawn may span
few directions. What other numbers of a volume say (such as the size of the head) is taken out of every voxel by linear regression over
those who are learnt from: with X the volumes and S the numbers and a column of ones, X - S S^+ X, and for a volume to be judged
x - s S^+ X.

Legend: N volumes, Q numbers that are taken out, n of those that are learnt from, t of those that are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from volgen.core.rng import permutation

Numbers = NDArray[np.float64]
Kind = Literal["number", "words", "overlap"]
"""What is predicted: a number; one of two words; or a map of labels, of which is said how far it overlaps with the true one."""
ROUNDING = 1e-6
"""Share of the largest variance below which a component is rounding."""
NOTHING = 1e-12
"""Share of all that volumes have below which they do not differ."""
FOLDS = 5


@dataclass(frozen=True)
class Learner:
    """One way of learning.

    Attributes:
        components: principal components, if there are as many; or other features.
        shrinkage: penalty of the ridge regression in mean variances of them.
    """

    components: int
    shrinkage: float


SETTINGS = tuple(Learner(components, shrinkage) for components in (3, 10, 30) for shrinkage in (0.01, 0.1, 1.0, 10.0))
"""Those that are chosen from, twelve."""


class Lesson(Protocol):
    """Volumes with what is true of them, by their places: of any of them a learner may be taught, and any may be judged."""

    @property
    def kind(self) -> Kind:
        """What is predicted."""
        ...

    @property
    def settings(self) -> Sequence[Learner]:
        """Those that are chosen from."""
        ...

    def predicted(self, learnt_from: Sequence[int], judged: Sequence[int], setting: Learner) -> Numbers:
        """What is said of each volume that is judged, [t]: a number, what grows with the chance of the second word, or an overlap."""
        ...

    def loss(self, said: Numbers, judged: Sequence[int]) -> float:
        """How wrong that is on average."""
        ...

    def losses(self, places: Sequence[int], seed: int, *key: int | str) -> Numbers:
        """Loss of each of :attr:`settings` on volumes that were left out in turn, of ``places`` alone."""
        ...

    def chosen(self, places: Sequence[int], seed: int, *key: int | str) -> Learner:
        """The setting that is best on volumes that were left out in turn: nobody else is looked at."""
        ...

    def shuffled(self, places: Sequence[int], order: Sequence[int]) -> Lesson:
        """The same, but of each of ``places`` is said to be true what is true of another, ``order`` (numbers among them)."""
        ...


@dataclass(frozen=True)
class Pool:
    """Volumes, as a learner of numbers or words sees them.

    Attributes:
        products: [N, N], sums of products of two volumes' voxels.
        taken_out: [N, Q], numbers whose linear effect on voxels is removed.
        target: [N], what is to be predicted; words are -1 and 1.
        kind: what that is.
    """

    products: Numbers
    taken_out: Numbers
    target: Numbers
    kind: Kind

    @property
    def settings(self) -> Sequence[Learner]:
        """The twelve of :data:`SETTINGS`."""
        return SETTINGS

    def predicted(self, learnt_from: Sequence[int], judged: Sequence[int], setting: Learner) -> Numbers:
        """What is said of volumes.

        Args:
            learnt_from: places of volumes.
            judged: places of volumes.
            setting: how.

        Returns:
            [t]: the number, or for words what grows with the chance of the second.
        """
        one, other = np.asarray(learnt_from), np.asarray(judged)
        truth = self.target[one]
        known, asked = (np.column_stack([np.ones(len(rows)), self.taken_out[rows]]) for rows in (one, other))
        inverse = np.linalg.pinv(known)
        remaining = np.eye(len(one)) - known @ inverse
        inner = self.products[np.ix_(one, one)]
        across = (self.products[np.ix_(other, one)] - asked @ inverse @ inner) @ remaining
        variances, vectors = np.linalg.eigh(remaining @ inner @ remaining)
        variances, vectors = variances[::-1][: setting.components], vectors[:, ::-1][:, : setting.components]
        kept = variances > np.maximum(ROUNDING * variances[0], NOTHING * inner.trace())
        variances, vectors = variances[kept], vectors[:, kept]
        if not len(variances):
            return np.full(len(other), float(truth.mean()))
        # Scores are sqrt(variance) times a vector, so of those who are judged across @ vector / sqrt(variance).
        weights = vectors.T @ (truth - truth.mean()) / (variances + setting.shrinkage * variances.mean())
        said: Numbers = truth.mean() + across @ vectors @ weights
        return said

    def loss(self, said: Numbers, judged: Sequence[int]) -> float:
        """Mean absolute error; for words 1 less the area under the curve."""
        return loss(said, self.target[np.asarray(judged)], self.kind)

    def losses(self, places: Sequence[int], seed: int, *key: int | str) -> Numbers:
        """Loss of each of :data:`SETTINGS` on volumes that were left out in turn, of ``places`` alone."""
        parts = folds(places, seed, *key)
        order = [place for fold in parts for place in fold]
        found = []
        for setting in SETTINGS:
            said = np.concatenate([self.predicted([p for p in places if p not in set(fold)], fold, setting) for fold in parts])
            found.append(self.loss(said, order))
        return np.array(found)

    def chosen(self, places: Sequence[int], seed: int, *key: int | str) -> Learner:
        """The setting that is best on volumes that were left out in turn: nobody else is looked at."""
        return SETTINGS[int(self.losses(places, seed, *key).argmin())]

    def shuffled(self, places: Sequence[int], order: Sequence[int]) -> Pool:
        """The same, but of each of ``places`` is said to be true what is true of another, ``order`` (numbers among them)."""
        target = self.target.copy()
        target[list(places)] = target[[places[number] for number in order]]
        return replace(self, target=target)


def folds(places: Sequence[int], seed: int, *key: int | str) -> list[list[int]]:
    """Places in :data:`FOLDS` parts, by chance; as many as places if these are fewer."""
    order = [places[place] for place in permutation(len(places), seed, "folds", *key)]
    return [order[start :: min(FOLDS, len(order))] for start in range(min(FOLDS, len(order)))]


def scores(kind: Kind, said: Numbers, truth: Numbers, weights_RN: Numbers) -> Numbers:
    """Mean absolute error, area under the curve or mean overlap where each of N counts as often as weights say, [R].

    NaN where nobody has a weight, or nobody of a word.
    """
    if kind == "words":
        return areas(said, truth, weights_RN)
    with np.errstate(invalid="ignore"):
        found: Numbers = weights_RN @ (np.abs(said - truth) if kind == "number" else said) / weights_RN.sum(axis=1)
    return found


def loss(said: Numbers, truth: Numbers, kind: Kind) -> float:
    """How wrong it is: mean absolute error, or 1 less the area under the curve (ties count half)."""
    if kind == "number":
        return float(np.abs(said - truth).mean())
    return 1.0 - area(said, truth)


def area(said: Numbers, truth: Numbers) -> float:
    """Area under the receiver operating characteristic: the chance that one of the second word is said to be it more than one of the first.

    0.5 where there is only one word.
    """
    return float(areas(said, truth, np.ones((1, len(said))))[0])


def areas(said: Numbers, truth: Numbers, weights_RN: Numbers) -> Numbers:
    """The same where each of N counts as often as weights say, [R]; NaN where a word has no weight."""
    first, second = truth < 0, truth > 0
    if not (first.any() and second.any()):
        return np.full(len(weights_RN), 0.5)
    difference = said[second][:, None] - said[first][None]
    wins = (difference > 0) + 0.5 * (difference == 0)
    total = weights_RN[:, second].sum(axis=1) * weights_RN[:, first].sum(axis=1)
    with np.errstate(invalid="ignore"):
        found: Numbers = np.einsum("rs,sf,rf->r", weights_RN[:, second], wins, weights_RN[:, first], optimize=True) / total
    return found
