"""Whether drawn volumes help to learn where structures are, with the arms of :mod:`volgen.bench.utility.downstream`.

One learner does all: a linear classifier (ridge regression of one-hot classes) of local features: brightness at several scales and its
slope, the place in the head, the depth under its outline, and random ramps of these (Rahimi and Recht 2008; Huang et al. 2006). What a
volume contributes are sums over its voxels, so an arm is learnt by adding those of its volumes, and volumes count alike. Small structures
count more than their voxels do: as the square root. Everything about a feature follows from its own volume, so nobody else is looked at.

Real people have labels in files. A drawn volume has none: a teacher labels it, the same learner taught by all protected people. What the
arms with drawn volumes reach is therefore bounded by what the teacher knows, and the teacher is not private: who releases volumes under
a guarantee cannot release such labels with them.

Legend: N volumes, V voxels of the head of one of them, F features, K structures and class 0, which is none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volgen.bench._shared.columns import first_scans, unit_voxels
from volgen.bench._shared.learner import FOLDS, Kind, Learner, Numbers, folds
from volgen.bench.utility.downstream import GAUSSIAN, OTHERS, PROTECTED, Study, Voxels, cohort_places, gaussian_of
from volgen.commands.bench.result import Row
from volgen.core.errors import UserError
from volgen.core.progress import say
from volgen.core.rng import normal
from volgen.data.record import Split, SubjectRecord
from volgen.data.store import Store
from volgen.evaluation.segmentation import image_of, read_table
from volgen.images import nifti
from volgen.images.volume import Volume

BACKGROUND = 0.05
"""Value up to which a voxel is no part of the head."""
LEAST = 16
"""Voxels of a head: with fewer all of a volume is one."""
SCALES = (1.0, 2.0, 4.0)
"""Standard deviations of what smooths brightness, in voxels."""
FEATURES = (16, 48, 128)
"""Features that are chosen from; the first ones are no ramps."""
SETTINGS = tuple(Learner(count, shrinkage) for count in FEATURES for shrinkage in (1e-6, 1e-5, 1e-4, 1e-3))
"""Those that are chosen from, twelve."""
PARTS = (-0.25, 0.25)
"""Where a voxel of the store is looked at along each axis, in voxels from its middle: the most frequent label of eight counts."""
NAME = "structures"
"""What the target is called."""
Features = NDArray[np.float32]
Classes = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledHead:
    """A volume, as the learner sees it, with its labels.

    Attributes:
        seen: [V, 13], what features are made of, each with mean 0 and variance 1 over the head.
        inside: [X * Y * Z], whether a voxel is of the head.
        labels: [X * Y * Z], classes.
    """

    seen: Features
    inside: NDArray[np.bool_]
    labels: Classes

    @classmethod
    def of(cls, unit_XYZ: NDArray[np.float32], labels_XYZ: Classes | None = None) -> LabelledHead:
        """A volume in [0, 1]; all of it is class 0 if there are no labels."""
        inside = unit_XYZ > BACKGROUND
        if inside.sum() < LEAST:
            inside = np.ones_like(inside)
        smooth = [ndimage.gaussian_filter(unit_XYZ, scale, mode="nearest") for scale in SCALES]
        place = [axis - axis[inside].mean() for axis in np.meshgrid(*map(np.arange, unit_XYZ.shape), indexing="ij")]
        maps = [unit_XYZ, *smooth, unit_XYZ - smooth[0], smooth[0] - smooth[1], ndimage.gaussian_gradient_magnitude(unit_XYZ, 1.0)]
        depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
        maps += [depth, np.abs(place[0]), *place, np.sqrt(sum(axis**2 for axis in place))]
        seen = np.stack([each[inside] for each in maps], axis=1).astype(np.float64)
        seen = (seen - seen.mean(axis=0)) / np.maximum(seen.std(axis=0), 1e-6)
        labels = np.zeros(unit_XYZ.size, dtype=np.uint8) if labels_XYZ is None else labels_XYZ.reshape(-1)
        return cls(seen.astype(np.float32), inside.reshape(-1), labels)

    @property
    def features(self) -> Features:
        """[V, F]: a constant, what is seen, and ramps of it that are the same for all heads."""
        count = self.seen.shape[1]
        drawn = normal((count + 1, FEATURES[-1] - count - 1), 0, "ramps").numpy()
        ramps = np.maximum(self.seen @ (drawn[:-1] / np.sqrt(count)) + drawn[-1], 0.0)
        return np.concatenate([np.ones((len(self.seen), 1), dtype=np.float32), self.seen, ramps], axis=1)

    def moments(self, classes: int) -> tuple[Numbers, Numbers]:
        """Means over voxels of products of features [F, F], and of features and one-hot classes [F, K + 1]."""
        features, own = self.features, self.labels[self.inside]
        weight = (1.0 / np.sqrt(np.maximum(np.bincount(own, minlength=classes), 1)))[own]
        weighted = features * (weight / weight.sum()).astype(np.float32)[:, None]
        of_classes = np.stack([weighted[own == number].sum(axis=0, dtype=np.float64) for number in range(classes)], axis=1)
        return (weighted.T @ features).astype(np.float64), of_classes

    def said(self, weights: Numbers) -> Classes:
        """The likeliest class of every voxel by weights [F, K + 1]; 0 outside of the head."""
        found = np.zeros(len(self.inside), dtype=np.uint8)
        found[self.inside] = (self.features[:, : len(weights)] @ weights.astype(np.float32)).argmax(axis=1)
        return found

    def overlap(self, weights: Numbers) -> float:
        """Dice's coefficient of what weights say and what is true, mean over the structures that there are."""
        said, classes = self.said(weights), weights.shape[1]
        both, one, other = (np.bincount(part, minlength=classes)[1:] for part in (said[said == self.labels], said, self.labels))
        there = other > 0
        return float((2.0 * both[there] / (one + other)[there]).mean()) if there.any() else float("nan")


@dataclass(frozen=True)
class Atlas:
    """Volumes with labels: a :class:`~volgen.bench._shared.learner.Lesson`.

    Attributes:
        heads: all of them.
        of_features: the first of the :meth:`LabelledHead.moments` of each, [N, F, F].
        of_classes: the second, [N, F, K + 1].
    """

    heads: Sequence[LabelledHead]
    of_features: Numbers
    of_classes: Numbers

    @classmethod
    def of(cls, heads: Sequence[LabelledHead], classes: int) -> Atlas:
        """Volumes whose labels are below ``classes``."""
        of_features, of_classes = zip(*(head.moments(classes) for head in heads), strict=True)
        return cls(heads, np.stack(of_features), np.stack(of_classes))

    @property
    def kind(self) -> Kind:
        """What is told of a volume: an overlap."""
        return "overlap"

    @property
    def settings(self) -> Sequence[Learner]:
        """The twelve of :data:`SETTINGS`."""
        return SETTINGS

    def learnt(self, learnt_from: Sequence[int], setting: Learner) -> Numbers:
        """Weights of features, [F, K + 1]."""
        count = setting.components
        features = self.of_features[list(learnt_from), :count, :count].mean(axis=0)
        classes = self.of_classes[list(learnt_from), :count].mean(axis=0)
        weights: Numbers = np.linalg.solve(features + setting.shrinkage * features.trace() / count * np.eye(count), classes)
        return weights

    def predicted(self, learnt_from: Sequence[int], judged: Sequence[int], setting: Learner) -> Numbers:
        """How far what is said of volumes overlaps with what is true, [t]."""
        weights = self.learnt(learnt_from, setting)
        return np.array([self.heads[place].overlap(weights) for place in judged])

    def loss(self, said: Numbers, judged: Sequence[int]) -> float:
        """1 less the mean overlap."""
        return 1.0 - float(said.mean())

    def losses(self, places: Sequence[int], seed: int, *key: int | str) -> Numbers:
        """Mean squared error of one-hot classes for each setting, on volumes that were left out in turn, from their sums."""
        found = np.zeros(len(SETTINGS))
        for fold in folds(places, seed, *key):
            rest = [place for place in places if place not in set(fold)]
            for number, setting in enumerate(SETTINGS):
                weights, count = self.learnt(rest, setting), setting.components
                features, classes = self.of_features[fold, :count, :count].sum(axis=0), self.of_classes[fold, :count].sum(axis=0)
                found[number] += len(fold) + (weights * (features @ weights - 2.0 * classes)).sum()
        return found / len(places)

    def chosen(self, places: Sequence[int], seed: int, *key: int | str) -> Learner:
        """The setting that is best on volumes that were left out in turn: nobody else is looked at."""
        return SETTINGS[int(self.losses(places, seed, *key).argmin())]

    def shuffled(self, places: Sequence[int], order: Sequence[int]) -> Atlas:
        """The same, but each of ``places`` has the labels of another, ``order`` (numbers among them)."""
        heads, of_features, of_classes = list(self.heads), self.of_features.copy(), self.of_classes.copy()
        for place, number in zip(places, order, strict=True):
            heads[place] = replace(self.heads[place], labels=self.heads[places[number]].labels)
            of_features[place], of_classes[place] = heads[place].moments(of_classes.shape[-1])
        return Atlas(heads, of_features, of_classes)

    def taught(self, heads: Sequence[LabelledHead], teachers: Sequence[int], seed: int) -> list[LabelledHead]:
        """Volumes with the labels that the learner gives them, taught by ``teachers`` of these."""
        weights = self.learnt(teachers, self.chosen(teachers, seed, "teacher"))
        return [replace(head, labels=head.said(weights)) for head in heads]


def segmented(
    store: Store, drawn: Mapping[str, Voxels], labels: Path, table: Path, split: Split, *, public: int, draws: int, seed: int,
) -> list[Row]:  # fmt: skip
    """The study of structures.

    Args:
        store: the cohort: the protected people are its training split.
        drawn: volumes of each run, [N, voxels] in [0, 1].
        labels: folder with an image of labels for each person, in the frame of the scan that was ingested.
        table: names of labels.
        split: whose people are public or judged.
        public: people of the split who are public in a draw.
        draws: how often they are drawn anew.
        seed: seed of everything.

    Raises:
        UserError: somebody has no labels, they are elsewhere than the scan, or there are too few people.
    """
    protected, others = first_scans(store, "train"), first_scans(store, split)
    if len(protected) < FOLDS or len(others) < public + FOLDS:
        there = f"it has {len(protected)} people to train and {len(others)} in {split}"
        raise UserError(str(store.path), there, f"{FOLDS}, and {public} who are public and {FOLDS} more")
    named = read_table(table)
    names = list(dict.fromkeys(named.values()))
    classes = {label: names.index(name) + 1 for label, name in named.items()}
    files = sorted(path for path in labels.rglob("*") if nifti.is_image(path))
    real = [_labelled(store, record, nifti.read(image_of(labels, files, record.id)), classes) for record in [*protected, *others]]
    shape = protected[0].shape
    count = len(next(iter(drawn.values())))
    voxels = unit_voxels(store, protected)
    nothing = np.zeros((len(voxels), 0))
    volumes = {**drawn, GAUSSIAN: gaussian_of(voxels, nothing, np.zeros((count, 0)), seed)}
    people, teachers = Atlas.of(real, len(names) + 1), range(len(protected))
    heads, counts = list(real), {PROTECTED: len(protected), OTHERS: len(others)}
    for name, each in volumes.items():
        heads += people.taught([LabelledHead.of(unit.reshape(shape)) for unit in each], teachers, seed)
        counts[name] = len(each)
    truth = np.full(len(others), np.nan)
    atlas = Atlas.of(heads, len(names) + 1)
    say(f"{NAME}: {', '.join(names)}; {len(protected)} protected people, {len(others)} who are public ({public}) or judged")
    return Study(NAME, atlas, cohort_places(counts), truth, np.zeros(len(others)), public, draws, seed).rows()


def classes_on(labels: Volume, record: SubjectRecord, classes: Mapping[int, int]) -> Classes:
    """Classes [X, Y, Z] of a scan's voxels: of each the class that most of eight points in it have, the lower one of two."""
    affine = record.affine if record.source_affine is None else record.source_affine
    inverse = np.linalg.inv(labels.affine) @ affine
    given = np.rint(labels.voxels).astype(np.int64)
    lookup = np.zeros(max(int(given.max()), *classes) + 1, dtype=np.uint8)
    lookup[list(classes)] = list(classes.values())
    mapped = lookup[np.maximum(given, 0)]
    votes = np.zeros((max(classes.values()) + 1, *record.shape), dtype=np.uint8)
    here = np.stack(np.meshgrid(*map(np.arange, record.shape), indexing="ij"), axis=-1)
    for part in product(PARTS, repeat=3):
        there = np.rint((here + np.array(part)) @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)
        known = ((there >= 0) & (there < np.array(mapped.shape))).all(axis=-1)
        found = np.where(known, mapped[tuple(np.clip(there, 0, np.array(mapped.shape) - 1).transpose(3, 0, 1, 2))], 0)
        for number in np.unique(found):
            votes[number] += found == number
    return np.asarray(votes.argmax(axis=0), dtype=np.uint8)


def _labelled(store: Store, record: SubjectRecord, labels: Volume, classes: Mapping[int, int]) -> LabelledHead:
    """A person with labels.

    Raises:
        UserError: less than half of what has a label is in the head.
    """
    found = classes_on(labels, record, classes)
    unit = store.read_unit(record)
    named = found > 0
    if 2 * (named & (unit > BACKGROUND)).sum() <= named.sum():
        raise UserError(record.id, "its labels are not where its head is", "labels in the frame of the scan that was ingested")
    return LabelledHead.of(unit, found)
