"""Whether volumes that a model draws are copies of the people it was trained on.

Volumes are compared as heads, coarsely: means over cubes until no edge has more than 32 voxels, inside the union of the real heads, each
volume scaled to mean 0 and length 1; the distance is 1 minus the correlation. Fine detail is left out on purpose: generated volumes
lack it, and would then be far from everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from volgen.evaluation.likeness import standardised
from volgen.evaluation.mask import head_mask
from volgen.images.blocks import edge_for

LARGEST_EDGE = 32
PERMUTATIONS = 4999
COPY = 0.2
"""A volume nearer to a person than this times the smallest distance between any two people is a copy of them (half-way between two people
it would be a quarter)."""
SPACE = "1 - correlation inside the union of real heads, means over cubes until no edge exceeds 32 voxels"
Unit = NDArray[np.float32]
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class People:
    """Real volumes as points.

    Attributes:
        rows: [scans, features], each of length 1.
        patient: number of the person of each scan.
        inside: whether the person was trained on, by scan.
        head: where features are taken [X, Y, Z].
    """

    rows: Rows
    patient: NDArray[np.int64]
    inside: NDArray[np.bool_]
    head: NDArray[np.bool_]


def cube(shape: Sequence[int]) -> int:
    """Edge of the cubes that are averaged over."""
    return edge_for(shape, LARGEST_EDGE)


def points(volumes: Sequence[Unit], patient: Sequence[int], inside: Sequence[bool]) -> People:
    """Real volumes [X, Y, Z] in [0, 1], already averaged over cubes, as points."""
    head = np.logical_or.reduce([head_mask(volume) for volume in volumes])
    return People(standardised(volumes, head), np.asarray(patient), np.asarray(inside, dtype=bool), head)


def nearest(people: People, drawn: Sequence[Unit], seed: int) -> dict[str, Any]:
    """Tells whether drawn volumes are nearer to those trained on than to the others, and whether any of them is a copy.

    Args:
        people: both kinds are there.
        drawn: volumes of the model, averaged as the real ones.
        seed: seed of the permutations.

    Returns:
        Medians of distances: drawn to trained-on and to others, others to trained-on, trained-on to other trained-on (between different
        persons); ``copies``: drawn volumes that are nearer to a person trained on than a fifth of the smallest distance of two people;
        ``alike``: pairs of people nearer to each other than a fifth of what is usual, which that distance leaves out, because one patient
        with two ids, or two copies of a scan, would otherwise hide every copy;
        ``nearest_is_member``: for how many drawn volumes the nearest person of all was trained on, ``expected`` for how many by chance,
        ``p_value``: how often equally many random people would be nearest to as many (permutation test, one-sided).
    """
    rows = standardised(drawn, people.head)
    to_people = _by_person(1.0 - rows @ people.rows.T, people)
    members = _membership(people)
    between = _between(people)
    # 1 - correlation goes with the square of a difference, so a fifth is less than half the way.
    alike = between < COPY * float(np.median(between.min(axis=1)))
    smallest = float(between[~alike].min())
    closest = to_people.argmin(axis=1)
    found = int(members[closest].sum())
    copies = int((to_people[:, members].min(axis=1) < COPY * smallest).sum())
    strangers = between[~members][:, members].min(axis=1)
    return {
        "space": SPACE, "drawn": len(drawn), "members": int(members.sum()), "others": int((~members).sum()),
        "drawn_to_members": float(np.median(to_people[:, members].min(axis=1))),
        "drawn_to_others": float(np.median(to_people[:, ~members].min(axis=1))),
        "others_to_members": float(np.median(strangers)),
        "members_to_members": float(np.median(between[members][:, members].min(axis=1))) if members.sum() > 1 else None,
        "smallest_between_people": smallest, "alike": int(alike.sum()) // 2, "copy_below": COPY * smallest, "copies": copies,
        "nearest_is_member": found, "expected": len(drawn) * float(members.mean()),
        "p_value": _permuted(closest, members, found, seed),
    }  # fmt: skip


def twins(people: People, drawn: Sequence[Unit], other: Sequence[Unit], also_inside: Sequence[bool]) -> dict[str, Any]:
    """Two models of halves that share nobody, from the same seeds (Kadkhodaie et al. 2024): alike if both learnt what people share.

    Args:
        people: the people of both halves; ``inside`` says who is in the first model's.
        drawn: volumes of the first model.
        other: those of the second, in the same order of seeds.
        also_inside: who is in the second model's half, by scan.

    Returns:
        Medians of correlations: between twins, to the nearest person of the model's own half; ``nearer_to_training``: number of pairs where
        both are more like somebody of their own half than like each other and than like anybody of the half that their model never saw;
        ``p_value``: of that many or more, if neither model knows its half (one-sided, binomial). Without the second comparison noise, and
        perfect samples of models that share no seeds, would be accused: the best of many people is nearer than one twin.
    """
    one, two = standardised(drawn, people.head), standardised(other, people.head)
    pair = (one * two).sum(axis=1)
    also = np.asarray(also_inside, dtype=bool)
    own, strange = ((one @ people.rows[half].T).max(axis=1) for half in (people.inside, also))
    theirs, foreign = ((two @ people.rows[half].T).max(axis=1) for half in (also, people.inside))
    nearer = int(((own > np.maximum(pair, strange)) & (theirs > np.maximum(pair, foreign))).sum())
    share = people.inside.sum() / (people.inside.sum() + also.sum())
    p_value = float(binom.sf(nearer - 1, len(pair), share * (1.0 - share)))
    return {
        "space": SPACE, "pairs": len(pair), "twins": float(np.median(pair)), "first_to_training": float(np.median(own)),
        "second_to_training": float(np.median(theirs)), "nearer_to_training": nearer, "p_value": p_value,
    }  # fmt: skip


def _membership(people: People) -> NDArray[np.bool_]:
    """Membership by person rather than by scan."""
    return np.array([bool(people.inside[people.patient == person][0]) for person in np.unique(people.patient)])


def _by_person(distances: Rows, people: People) -> Rows:
    """[rows, scans] -> [rows, persons]: to a person's nearest scan."""
    return np.stack([distances[:, people.patient == person].min(axis=1) for person in np.unique(people.patient)], axis=1)


def _between(people: People) -> Rows:
    """[persons, persons], infinite to oneself."""
    by_column = _by_person(1.0 - people.rows @ people.rows.T, people)
    table = _by_person(by_column.T, people).T
    np.fill_diagonal(table, np.inf)
    return table


def _permuted(closest: NDArray[np.int64], members: NDArray[np.bool_], found: int, seed: int) -> float:
    """People are exchangeable if the model knows none of them: who is called a member is then as good as any other choice."""
    generator = np.random.default_rng(seed)
    counts = np.bincount(closest, minlength=len(members))
    at_least = sum(int(counts[generator.permutation(members)].sum()) >= found for _ in range(PERMUTATIONS))
    return (1 + at_least) / (1 + PERMUTATIONS)
