"""Whether volumes can be told from real ones by their tissue: a classifier, beside how well it tells real people from real people."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.cohort_measure import Compared, Goal, Target, VolumeGroup
from volgen.evaluation.texture import texture

FOLDS = 5
DRAWS = 20
RIDGE = 0.3
"""Share of the covariance that is replaced by the identity (of standardised numbers)."""
ALLOWED = 2.0
SMALLEST = 1e-9
Matrix = NDArray[np.float64]


class Config(BaseConfig):
    """Area under the curve of a linear discriminant on numbers of texture, people kept apart (5 folds, 20 draws).

    0.5: nobody could tell; 1: every volume is told from every real one. ``floor`` is that of as many real people against the others, and
    ``floor_sd`` its standard deviation over draws. Target: at most 2 of these above the floor. Where the area is 1, ``distance`` still
    tells: the difference of mean scores in standard deviations of real people's.
    """

    kind: Literal["told_apart"] = "told_apart"
    place: ClassVar[int] = 8
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("told apart", "Told from real ones by their tissue, area under the curve", fewest=8,
             missed="their tissue gives them away"),
    )  # fmt: skip

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """``generated``, ``floor``, ``floor_sd`` and ``distance``; real people are validation and training people together."""
        ours, real = _numbers(generated), [*_numbers(validation), *_numbers(train)]
        few = min(len(ours), len(real) // 2)
        if few < FOLDS:
            return Compared(
                {"generated": None, "floor": None, "floor_sd": None, "distance": None}, [Target("told apart", None, None, None)]
            )
        return self._compared(np.array(ours), np.array(real), few)

    def _compared(self, ours: Matrix, real: Matrix, few: int) -> Compared:
        found, floors = [], []
        for draw in range(DRAWS):
            random = np.random.default_rng(draw)
            order = random.permutation(len(real))
            some = ours[random.permutation(len(ours))[:few]]
            found.append(apart(some, real[order[few:]], random))
            floors.append(apart(real[order[:few]], real[order[few:]], random)[0])
        (told, distance), floor, spread = np.mean(found, axis=0), float(np.mean(floors)), float(np.std(floors))
        values = {"generated": float(told), "floor": floor, "floor_sd": spread, "distance": float(distance)}
        return Compared(values, [Target("told apart", float(told), None, floor + ALLOWED * spread)])


def _numbers(group: VolumeGroup) -> list[Matrix]:
    """Numbers of texture of each volume that shows a head."""
    return [texture(volume, mask, group.voxel_size) for volume, mask in zip(group.volumes, group.masks, strict=True) if mask.any()]


def apart(ours: Matrix, real: Matrix, random: np.random.Generator) -> tuple[float, float]:
    """How far apart scores are that each volume gets from a discriminant that has not seen it.

    Returns:
        The area under the curve, and the difference of means in standard deviations of the real ones.
    """
    rows, of_ours = np.concatenate([ours, real]), np.arange(len(ours) + len(real)) < len(ours)
    fold = np.concatenate([random.permutation(np.arange(len(side)) % FOLDS) for side in (ours, real)])
    scores = np.zeros(len(rows))
    for out in range(FOLDS):
        known = fold != out
        scaled = (rows - rows[known].mean(axis=0)) / np.maximum(rows[known].std(axis=0), SMALLEST)
        a, b = scaled[known & of_ours], scaled[known & ~of_ours]
        within = np.concatenate([a - a.mean(axis=0), b - b.mean(axis=0)])
        covariance = (1 - RIDGE) * within.T @ within / len(within) + RIDGE * np.eye(rows.shape[1])
        direction = np.linalg.solve(covariance, a.mean(axis=0) - b.mean(axis=0))
        # Scores of different folds are on one scale: the middle between the classes is 0, and their distance 1.
        centred = (scaled[~known] - (a.mean(axis=0) + b.mean(axis=0)) / 2) @ direction
        scores[~known] = centred / max(float((a.mean(axis=0) - b.mean(axis=0)) @ direction), SMALLEST)
    count, ranks = int(of_ours.sum()), scores.argsort().argsort() + 1
    area = float((ranks[of_ours].sum() - count * (count + 1) / 2) / (count * (len(rows) - count)))
    spread = max(float(scores[~of_ours].std()), SMALLEST)
    return area, float(scores[of_ours].mean() - scores[~of_ours].mean()) / spread
