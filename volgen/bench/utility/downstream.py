"""Whether drawn volumes help to learn something of people: arms that differ in what is learnt from, all judged on the same real people.

| arm | learnt from |
|---|---|
| ``public`` | people whom everybody may look at |
| ``public + real`` | these and the protected people: the ceiling |
| ``shuffled`` | the same with what is true of them shuffled: the floor |
| ``RUN`` and ``public + RUN`` | volumes that a run drew, as asked for; and the public people |
| ``gaussian`` and ``public + gaussian`` | samples of a Gaussian of the protected people, its mean linear in what is asked: the baseline |

With ``public + real + RUN`` all real people are learnt from, and the volumes too: whether drawing what is rare makes up for its being rare.
Nobody is both learnt from and judged, and how it is learnt is chosen on those who are learnt from. Public and test people are drawn from
one cohort in several ways; intervals are of other test people (bootstrap; a person keeps its weight in all draws and arms). Of a number
the same is told of people who are rare: those in intervals of it, such as decades of age, that hold the fewest protected people.

Legend: P people who may be public or judged, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from volgen.bench._shared.bootstrap import interval
from volgen.bench._shared.learner import Kind, Lesson, Numbers, Pool, scores
from volgen.commands.bench.result import Row
from volgen.core.rng import normal, permutation

PUBLIC, CEILING, FLOOR, GAUSSIAN = "public", "public + real", "shuffled", "gaussian"
PROTECTED, OTHERS = "protected", "others"
RESAMPLES = 2000
RARE = 0.25
"""Share of the protected people that intervals of a number may hold together to be rare."""
UNITS: Mapping[Kind, str] = {"number": "mean absolute error", "words": "area under the curve", "overlap": "mean overlap (Dice)"}
CURVE = 5
"""Numbers of real people on the learning curve with which drawn volumes are compared, none of them and all of them included."""
Voxels = NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """Volumes and what is true of them.

    Attributes:
        voxels: [N, voxels] in [0, 1].
        size: [N], what is taken out where size is: the logarithm of how many voxels are no background.
        target: [N], NaN where nothing is known; words are -1 and 1.
    """

    voxels: Voxels
    size: Numbers
    target: Numbers

    def known(self) -> Labelled:
        """Those of whom the target is known."""
        there = np.isfinite(self.target)
        return Labelled(self.voxels[there], self.size[there], self.target[there])


def log_size(voxels: Voxels, background: float = 0.05) -> Numbers:
    """Logarithm of how many voxels are above ``background``, for each volume."""
    found: Numbers = np.log(np.maximum((voxels > background).sum(axis=1), 1))
    return found


def gaussian_of(voxels: Voxels, known_NQ: Numbers, asked_MQ: Numbers, seed: int) -> Voxels:
    """Samples [M, voxels] of a Gaussian whose mean is linear in what is known, with the covariance of what that leaves.

    A sample is a linear combination of the volumes that it was fitted to: with S what is known and a column of ones, and z white,
    s S^+ X + z (I - S S^+) X / sqrt(N - Q - 1). It is clipped to [0, 1].
    """
    S, s = (np.column_stack([np.ones(len(rows)), rows]) for rows in (known_NQ, asked_MQ))
    inverse = np.linalg.pinv(S)
    noise = normal((len(s), len(S)), seed, "gaussian of people").double().numpy()
    weights = s @ inverse + noise @ (np.eye(len(S)) - S @ inverse) / np.sqrt(max(len(S) - S.shape[1], 1))
    samples: Voxels = np.clip(weights.astype(np.float32) @ voxels, 0.0, 1.0)
    return samples


@dataclass(frozen=True)
class Said:
    """What an arm said of the test people of each draw.

    Attributes:
        draws: for each draw, places [t] among the P people and what was said of them [t].
        truth: [P]; NaN for overlaps, which have been compared with it.
        kind: what was predicted.
    """

    draws: tuple[tuple[NDArray[np.int64], Numbers], ...]
    truth: Numbers
    kind: Kind

    def scores(self, weights_RP: Numbers) -> Numbers:
        """Mean of the score over those draws in which somebody who is judged has a weight, [R]."""
        found = np.array([scores(self.kind, said, self.truth[people], weights_RP[:, people]) for people, said in self.draws])
        there = np.isfinite(found)
        with np.errstate(invalid="ignore"):
            mean: Numbers = np.where(there, found, 0.0).sum(axis=0) / there.sum(axis=0)
        return mean

    def score(self, of: Numbers) -> float:
        """The same where everybody counts as ``of`` [P] says."""
        return float(self.scores(of[None])[0])


@dataclass(frozen=True)
class Study:
    """One target, studied.

    Attributes:
        name: the target.
        lesson: all volumes.
        places: where the volumes of a cohort are among them: ``protected``, ``others``, and those drawn by each run and the Gaussian.
        truth: [P], what is true of the others; NaN for overlaps.
        rare: [P], 1 for those of the others who are rare and 0 for the rest.
        publics: how many of the others are public; the rest of them are judged.
        draws: how often they are drawn anew.
        seed: seed of draws, folds and resamples.
    """

    name: str
    lesson: Lesson
    places: Mapping[str, list[int]]
    truth: Numbers
    rare: Numbers
    publics: int
    draws: int
    seed: int

    @classmethod
    def of(
        cls, name: str, kind: Kind, protected: Labelled, others: Labelled, drawn: Mapping[str, Labelled], *, publics: int, draws: int,
        without_size: bool, width: float | None, seed: int,
    ) -> Study:  # fmt: skip
        """A study of a number or of words.

        Args:
            name: the target.
            kind: what kind of thing it is.
            protected: people whom runs were trained on.
            others: people who are public in some draws and judged in others.
            drawn: volumes of each run, and of the Gaussian, by name.
            publics: how many of the others are public.
            draws: how often they are drawn anew.
            without_size: whether what the size of a head says is taken out.
            width: width of the intervals of a number of which some are rare; None: nobody is.
            seed: seed of draws, folds and resamples.
        """
        cohorts = {PROTECTED: protected, OTHERS: others, **drawn}
        voxels = np.concatenate([cohort.voxels for cohort in cohorts.values()]).astype(np.float64)
        voxels -= voxels.mean(axis=0)  # what all share says nothing, and is most of every product
        size = np.concatenate([cohort.size for cohort in cohorts.values()])[:, None]
        target = np.concatenate([cohort.target for cohort in cohorts.values()])
        pool = Pool(voxels @ voxels.T, size if without_size else size[:, :0], target, kind)
        places = cohort_places({name: len(cohort.target) for name, cohort in cohorts.items()})
        few = np.zeros(len(others.target)) if kind == "words" or width is None else rare(protected.target, others.target, width)
        return cls(name, pool, places, others.target, few, publics, draws, seed)

    def rows(self) -> list[Row]:
        """Scores of the arms, what of the gap they close, whom they are worth, and how well they choose."""
        protected = self.places[PROTECTED]
        arms = {
            PUBLIC: self._said(PUBLIC, ()),
            CEILING: self._said(CEILING, protected),
            FLOOR: self._said(FLOOR, protected, shuffled=True),
        }
        for name in self._drawn:
            arms[name] = self._said(name, self.places[name], alone=True)
            arms[with_public(name)] = self._said(with_public(name), self.places[name])
            arms[with_all(name)] = self._said(with_all(name), [*protected, *self.places[name]])
        rows = self._scores(arms) + self._gaps(arms, self._curve(arms)) + self._beside_all(arms, self.name, self._once)
        if self.rare.any():
            rows += self._of_the_rare(arms)
        for name in self._drawn:
            rows += self._choice(name)
        return rows

    @property
    def _drawn(self) -> list[str]:
        return [name for name in self.places if name not in (PROTECTED, OTHERS)]

    @property
    def _sign(self) -> float:
        """1 where more is better."""
        return -1.0 if self.lesson.kind == "number" else 1.0

    @property
    def _once(self) -> Numbers:
        """Everybody counts, [P]."""
        return np.ones(len(self.truth))

    @cached_property
    def _weights(self) -> Numbers:
        """How often each person counts in each resample, [R, P]."""
        count = len(self.truth)
        return np.random.default_rng(self.seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)

    @cached_property
    def _splits(self) -> tuple[tuple[list[int], list[int], NDArray[np.int64]], ...]:
        """Where those who are public and who are judged are among the volumes, and which of the P people are judged; for each draw."""
        people = self.places[OTHERS]
        found = []
        for split in range(self.draws):
            order = permutation(len(people), self.seed, "public", split)
            public, judged = ([people[place] for place in part] for part in (order[: self.publics], order[self.publics :]))
            found.append((public, judged, np.array(order[self.publics :])))
        return tuple(found)

    def _said(self, arm: str, added: Sequence[int], *, alone: bool = False, shuffled: bool = False) -> Said:
        """What is said of the test people of each draw, if ``added`` are learnt from beside the public people, or ``alone``."""
        draws = []
        for split, (public, judged, people) in enumerate(self._splits):
            learnt_from = list(added) if alone else [*public, *added]
            lesson = self.lesson
            if shuffled:
                lesson = lesson.shuffled(learnt_from, permutation(len(learnt_from), self.seed, "shuffled", split))
            setting = lesson.chosen(learnt_from, self.seed, arm, split)
            draws.append((people, lesson.predicted(learnt_from, judged, setting)))
        return Said(tuple(draws), self.truth, self.lesson.kind)

    def _curve(self, arms: Mapping[str, Said]) -> list[tuple[int, float]]:
        """How good it gets with protected people, from none to all of them."""
        protected, curve = self.places[PROTECTED], [(0, arms[PUBLIC].score(self._once))]
        order = permutation(len(protected), self.seed, "curve")
        for part in range(1, CURVE - 1):
            count = round(len(protected) * part / (CURVE - 1))
            said = self._said(f"{count} real", [protected[place] for place in order[:count]])
            curve.append((count, said.score(self._once)))
        return [*curve, (len(protected), arms[CEILING].score(self._once))]

    def _scores(self, arms: Mapping[str, Said]) -> list[Row]:
        unit = UNITS[self.lesson.kind]
        return [
            Row(f"{self.name}: {arm}", said.score(self._once), unit, interval=_percentiles(said.scores(self._weights)))
            for arm, said in arms.items()
        ]

    def _gained(self, name: str, unit: str, of: Numbers, arm: Said, over: Said) -> Row:
        """What an arm is better by than another, paired, where everybody counts as ``of`` [P] says."""
        value = self._sign * (arm.score(of) - over.score(of))
        weights = self._weights * of
        return Row(name, value, unit, interval=_percentiles(self._sign * (arm.scores(weights) - over.scores(weights))))

    def _gaps(self, arms: Mapping[str, Said], curve: Sequence[tuple[int, float]]) -> list[Row]:
        """Shares of the way from the public arm to the ceiling, people, and the difference to the Gaussian, paired."""
        public, ceiling = (arms[arm].scores(self._weights) for arm in (PUBLIC, CEILING))
        low, high = arms[PUBLIC].score(self._once), arms[CEILING].score(self._once)
        rows = [self._gained(f"{self.name}: gap", "", self._once, arms[CEILING], arms[PUBLIC])]
        for name in self._drawn:
            arm = with_public(name)
            said, score = arms[arm].scores(self._weights), arms[arm].score(self._once)
            with np.errstate(divide="ignore", invalid="ignore"):
                closed = _percentiles((said - public) / (ceiling - public))
            rows += [
                self._gained(f"{self.name}: {arm} gains", "over public", self._once, arms[arm], arms[PUBLIC]),
                Row(f"{self.name}: {arm} closes", (score - low) / (high - low) if high != low else 0.0, "of the gap", interval=closed),
                Row(f"{self.name}: {arm} is worth", people_worth(score, curve, self._sign), "people"),
            ]
            if name != GAUSSIAN and GAUSSIAN in self._drawn:
                baseline = arms[with_public(GAUSSIAN)]
                rows.append(self._gained(f"{self.name}: {arm} gains over {GAUSSIAN}", "", self._once, arms[arm], baseline))
        return rows

    def _beside_all(self, arms: Mapping[str, Said], whom: str, of: Numbers) -> list[Row]:
        """What volumes gain beside all real people."""
        return [
            self._gained(f"{whom}: {with_all(name)} gains", f"over {CEILING}", of, arms[with_all(name)], arms[CEILING])
            for name in self._drawn
        ]  # fmt: skip

    def _of_the_rare(self, arms: Mapping[str, Said]) -> list[Row]:
        """How wrong arms are of rare people, and what volumes gain of them."""
        whom, unit, weights = f"{self.name}, {int(self.rare.sum())} rare people", UNITS[self.lesson.kind], self._weights * self.rare
        rows = [
            Row(f"{whom}: {arm}", said.score(self.rare), unit, interval=_percentiles(said.scores(weights)))
            for arm, said in arms.items()
            if np.isfinite(said.score(self.rare))
        ]  # fmt: skip
        if not rows:  # the rare were public in every draw
            return []
        for name in self._drawn:
            arm = with_public(name)
            rows.append(self._gained(f"{whom}: {arm} gains", "over public", self.rare, arms[arm], arms[PUBLIC]))
        return rows + self._beside_all(arms, whom, self.rare)

    def _choice(self, name: str) -> list[Row]:
        """How settings that are ranked on public people, on drawn volumes and on both do if protected people are learnt from."""
        lesson, drawn, alone = self.lesson, self.places[name], self.lesson.losses(self.places[name], self.seed, "choice")
        correlations: dict[str, list[float]] = {what: [] for what in (PUBLIC, name, with_public(name))}
        regrets: dict[str, list[float]] = {what: [] for what in correlations}
        for (public, _, _), real in zip(self._splits, self._real, strict=True):
            own, both = (lesson.losses(places, self.seed, "choice") for places in (public, [*public, *drawn]))
            for what, losses in zip(correlations, (own, alone, both), strict=True):
                correlations[what].append(_rank_correlation(losses, real))
                regrets[what].append(float(real[losses.argmin()] - real.min()))
        rows = []
        for of, found in (("rank correlation", correlations), ("regret", regrets)):
            for what in (what for what in found if what != PUBLIC or name == self._drawn[0]):  # they are the same
                values = np.array(found[what])
                rows.append(Row(f"{self.name}: chosen on {what}, {of}", float(values.mean()), "", interval=interval(values, self.seed)))
        return rows

    @cached_property
    def _real(self) -> list[Numbers]:
        """How wrong each setting is of those who are judged if protected people are learnt from, for each draw."""
        protected, lesson = self.places[PROTECTED], self.lesson
        return [
            np.array([lesson.loss(lesson.predicted(protected, judged, setting), judged) for setting in lesson.settings])
            for _, judged, _ in self._splits
        ]  # fmt: skip


def cohort_places(counts: Mapping[str, int]) -> dict[str, list[int]]:
    """Where cohorts that stand behind each other are among all volumes, from how many each has."""
    ends = np.cumsum([0, *counts.values()]).tolist()
    return {name: list(range(start, end)) for name, (start, end) in zip(counts, pairwise(ends), strict=True)}


def rare(protected: Numbers, others: Numbers, width: float) -> Numbers:
    """Which of the others are rare, [P]: 1 for those in the emptiest intervals, which hold :data:`RARE` of the protected people together.

    Intervals are [k width, (k + 1) width) for whole k, those of everybody; of two that hold as many the higher one is emptier.
    """
    bins, own = (np.floor(values / width).astype(int) for values in (others, protected))
    found, total = set(), 0
    for number in sorted({*bins.tolist(), *own.tolist()}, key=lambda number: (int((own == number).sum()), -number)):
        total += int((own == number).sum())
        if total > RARE * len(own):
            break
        found.add(number)
    return np.isin(bins, list(found)).astype(np.float64)


def with_public(name: str) -> str:
    """The arm of volumes that are learnt from beside the public people."""
    return f"{PUBLIC} + {name}"


def with_all(name: str) -> str:
    """The arm of volumes that are learnt from beside all real people."""
    return f"{CEILING} + {name}"


def people_worth(score: float, curve: Sequence[tuple[int, float]], sign: float) -> float:
    """How many real people would have done as much, from the learning curve, of which what goes down again counts as level.

    Args:
        score: what an arm has.
        curve: people and score, from none to all there are.
        sign: 1 if more is better, -1 if less is.
    """
    counts = np.array([count for count, _ in curve], dtype=np.float64)
    reached = np.maximum.accumulate(sign * np.array([value for _, value in curve]))
    return float(np.interp(sign * score, reached, counts)) if reached[-1] > reached[0] else 0.0


def _percentiles(values: Numbers) -> tuple[float, float] | None:
    """The 95 % interval of those values that are numbers; None if none is, as of shares of a gap that there is not."""
    there = values[np.isfinite(values)]
    if not len(there):
        return None
    low, high = np.percentile(there, (2.5, 97.5))
    return float(low), float(high)


def _rank_correlation(one: Numbers, other: Numbers) -> float:
    """Spearman's; 0 where all are level."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
