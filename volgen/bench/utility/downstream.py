"""Whether drawn volumes help to learn something of people: arms that differ in what is learnt from, all judged on the same real people.

| arm | learnt from |
|---|---|
| ``public`` | people whom everybody may look at |
| ``public + real`` | these and the protected people: the ceiling |
| ``shuffled`` | the same with what is true of them shuffled: the floor |
| ``RUN`` and ``public + RUN`` | volumes that a run drew, as asked for; and the public people |
| ``gaussian`` and ``public + gaussian`` | samples of a Gaussian of the protected people, its mean linear in what is asked: the baseline |

Nobody is both learnt from and judged, and how it is learnt is chosen on those who are learnt from. Public and test people are drawn from
one cohort in several ways; intervals are of other test people (bootstrap; a person keeps its weight in all draws and arms).

Legend: P people who may be public or judged, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from volgen.bench._shared.bootstrap import interval
from volgen.bench._shared.learner import SETTINGS, Kind, Numbers, Pool, areas
from volgen.commands.bench.result import Row
from volgen.core.rng import normal, permutation

PUBLIC, CEILING, FLOOR, GAUSSIAN = "public", "public + real", "shuffled", "gaussian"
RESAMPLES = 2000
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
        truth: [P].
        kind: what was predicted.
    """

    draws: tuple[tuple[NDArray[np.int64], Numbers], ...]
    truth: Numbers
    kind: Kind

    def scores(self, weights_RP: Numbers) -> Numbers:
        """Mean over draws of the mean absolute error, or of the area under the curve, [R]."""
        found = []
        for people, said in self.draws:
            weights = weights_RP[:, people]
            if self.kind == "number":
                with np.errstate(invalid="ignore"):
                    found.append(weights @ np.abs(said - self.truth[people]) / weights.sum(axis=1))
            else:
                found.append(areas(said, self.truth[people], weights))
        mean: Numbers = np.mean(found, axis=0)
        return mean

    def score(self) -> float:
        """The same where everybody counts once."""
        return float(self.scores(np.ones((1, len(self.truth))))[0])


@dataclass(frozen=True)
class Dealt:
    """Everybody, and who is who in each draw.

    Attributes:
        volumes: all that is learnt from or judged.
        places: where the volumes of a cohort are among them, by its name.
        splits: for each draw, where the public people are among the volumes, and which of the P people are judged.
    """

    volumes: Pool
    places: Mapping[str, list[int]]
    splits: tuple[tuple[list[int], NDArray[np.int64]], ...]


@dataclass(frozen=True)
class Study:
    """One target, studied.

    Attributes:
        name: the target.
        kind: what kind of thing it is.
        protected: people whom runs were trained on.
        others: people who are public in some draws and judged in others.
        drawn: volumes of each run, and of the Gaussian, by name.
        publics: how many of the others are public.
        splits: how often they are drawn anew.
        without_size: whether what the size of a head says is taken out.
        seed: seed of draws, folds and resamples.
    """

    name: str
    kind: Kind
    protected: Labelled
    others: Labelled
    drawn: Mapping[str, Labelled]
    publics: int
    splits: int
    without_size: bool
    seed: int

    def rows(self) -> list[Row]:
        """Scores of the arms, what of the gap they close, whom they are worth, and how well they choose."""
        scene = self._scene()
        protected = scene.places["protected"]
        arms = {
            PUBLIC: self._said(scene, PUBLIC, ()),
            CEILING: self._said(scene, CEILING, protected),
            FLOOR: self._said(scene, FLOOR, protected, shuffled=True),
        }
        for name in self.drawn:
            arms[name] = self._said(scene, name, scene.places[name], alone=True)
            arms[with_public(name)] = self._said(scene, with_public(name), scene.places[name])
        rows = self._scores(arms) + self._gaps(arms, self._curve(scene, arms))
        for name in self.drawn:
            rows += self._choice(name, scene)
        return rows

    def _said(self, scene: Dealt, arm: str, added: Sequence[int], *, alone: bool = False, shuffled: bool = False) -> Said:
        """What is said of the test people of each draw, if ``added`` are learnt from beside the public people, or ``alone``."""
        draws = []
        for split, (public, judged) in enumerate(scene.splits):
            learnt_from = list(added) if alone else [*public, *added]
            volumes = scene.volumes
            if shuffled:
                target = volumes.target.copy()
                target[learnt_from] = target[[learnt_from[p] for p in permutation(len(learnt_from), self.seed, "shuffled", split)]]
                volumes = replace(volumes, target=target)
            setting = volumes.chosen(learnt_from, self.seed, arm, split)
            asked = [scene.places["others"][place] for place in judged]
            draws.append((judged, volumes.predicted(learnt_from, asked, setting)))
        return Said(tuple(draws), self.others.target, self.kind)

    def _scene(self) -> Dealt:
        """All volumes, where those of each cohort are among them, and who is public and who is judged in each draw."""
        cohorts = {"protected": self.protected, "others": self.others, **self.drawn}
        voxels = np.concatenate([cohort.voxels for cohort in cohorts.values()]).astype(np.float64)
        voxels -= voxels.mean(axis=0)  # what all share says nothing, and is most of every product
        size = np.concatenate([cohort.size for cohort in cohorts.values()])[:, None]
        target = np.concatenate([cohort.target for cohort in cohorts.values()])
        volumes = Pool(voxels @ voxels.T, size if self.without_size else size[:, :0], target, self.kind)
        ends = np.cumsum([len(cohort.target) for cohort in cohorts.values()])
        places = {name: list(range(end - len(cohort.target), end)) for (name, cohort), end in zip(cohorts.items(), ends, strict=True)}
        orders = [permutation(len(self.others.target), self.seed, "public", split) for split in range(self.splits)]
        people = places["others"]
        splits = tuple(([people[p] for p in order[: self.publics]], np.array(order[self.publics :])) for order in orders)
        return Dealt(volumes, places, splits)

    def _curve(self, scene: Dealt, arms: Mapping[str, Said]) -> list[tuple[int, float]]:
        """How good it gets with protected people, from none to all of them."""
        protected, curve = scene.places["protected"], [(0, arms[PUBLIC].score())]
        order = permutation(len(protected), self.seed, "curve")
        for part in range(1, CURVE - 1):
            count = round(len(protected) * part / (CURVE - 1))
            curve.append((count, self._said(scene, f"{count} real", [protected[place] for place in order[:count]]).score()))
        return [*curve, (len(protected), arms[CEILING].score())]

    def _scores(self, arms: Mapping[str, Said]) -> list[Row]:
        weights, rows = self._weights(), []
        for arm, said in arms.items():
            unit = "mean absolute error" if self.kind == "number" else "area under the curve"
            rows.append(Row(f"{self.name}: {arm}", said.score(), unit, interval=_percentiles(said.scores(weights))))
        return rows

    def _gaps(self, arms: Mapping[str, Said], curve: Sequence[tuple[int, float]]) -> list[Row]:
        """Shares of the way from the public arm to the ceiling, people, and the difference to the Gaussian, paired."""
        weights, rows, sign = self._weights(), [], -1.0 if self.kind == "number" else 1.0
        public, ceiling = (arms[arm].scores(weights) for arm in (PUBLIC, CEILING))
        low, high = arms[PUBLIC].score(), arms[CEILING].score()
        rows.append(Row(f"{self.name}: gap", sign * (high - low), "", interval=_percentiles(sign * (ceiling - public))))
        for name in self.drawn:
            arm = with_public(name)
            said, score = arms[arm].scores(weights), arms[arm].score()
            with np.errstate(divide="ignore", invalid="ignore"):
                closed = _percentiles((said - public) / (ceiling - public))
            rows += [
                Row(f"{self.name}: {arm} gains", sign * (score - low), "over public", interval=_percentiles(sign * (said - public))),
                Row(f"{self.name}: {arm} closes", (score - low) / (high - low) if high != low else 0.0, "of the gap", interval=closed),
                Row(f"{self.name}: {arm} is worth", people_worth(score, curve, sign), "people"),
            ]
            if name != GAUSSIAN and GAUSSIAN in self.drawn:
                baseline = arms[with_public(GAUSSIAN)]
                better = _percentiles(sign * (said - baseline.scores(weights)))
                rows.append(Row(f"{self.name}: {arm} gains over {GAUSSIAN}", sign * (score - baseline.score()), "", interval=better))
        return rows

    def _choice(self, name: str, scene: Dealt) -> list[Row]:
        """How settings that are ranked on public people, on drawn volumes and on both do if protected people are learnt from."""
        volumes, drawn, alone = scene.volumes, scene.places[name], scene.volumes.losses(scene.places[name], self.seed, "choice")
        correlations: dict[str, list[float]] = {what: [] for what in (PUBLIC, name, with_public(name))}
        regrets: dict[str, list[float]] = {what: [] for what in correlations}
        for public, judged in scene.splits:
            asked = [scene.places["others"][place] for place in judged]
            said = [volumes.predicted(scene.places["protected"], asked, setting) for setting in SETTINGS]
            real = np.array([volumes.loss(each, asked) for each in said])
            own, both = (volumes.losses(places, self.seed, "choice") for places in (public, [*public, *drawn]))
            for what, losses in zip(correlations, (own, alone, both), strict=True):
                correlations[what].append(_rank_correlation(losses, real))
                regrets[what].append(float(real[losses.argmin()] - real.min()))
        rows = []
        for of, found in (("rank correlation", correlations), ("regret", regrets)):
            for what in (what for what in found if what != PUBLIC or name == next(iter(self.drawn))):  # they are the same
                values = np.array(found[what])
                rows.append(Row(f"{self.name}: chosen on {what}, {of}", float(values.mean()), "", interval=interval(values, self.seed)))
        return rows

    def _weights(self) -> Numbers:
        """How often each person counts in each resample, [R, P]."""
        count = len(self.others.target)
        return np.random.default_rng(self.seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def with_public(name: str) -> str:
    """The arm of volumes that are learnt from beside the public people."""
    return f"{PUBLIC} + {name}"


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


def _percentiles(values: Numbers) -> tuple[float, float]:
    low, high = np.nanpercentile(values[~np.isinf(values)], (2.5, 97.5))
    return float(low), float(high)


def _rank_correlation(one: Numbers, other: Numbers) -> float:
    """Spearman's; 0 where all are level."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
