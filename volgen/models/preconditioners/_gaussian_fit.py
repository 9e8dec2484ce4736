"""The fit of the structured Gaussian, in memory that does not grow with the cohort.

Principal directions of n volumes are combinations of these volumes, with weights from the n x n Gram matrix of their inner products. So
all that has to be in memory at once are two parts of the cohort, and directions of the cohort and of the cohort without each fold come
from one matrix: its rows and columns without those of the fold, centred. What fits into :data:`KEPT_BYTES` is kept; a larger cohort
is read again, once for each block of that size and twice more.

Legend: n volumes, p coefficients of the low-pass corner, r components, k folds, X Y Z coefficients of a volume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.linalg import eigh
from torch import Tensor

from volgen.core.rng import permutation
from volgen.models.haar import Index, low_pass, pyramid, subbands

KEPT_BYTES = 2 << 30
"""Low-pass corners of volumes in memory at once: 256 of 256^3 voxels at rank_level 1, or every one of 65536 at 4 mm."""
PART = 16
"""Volumes multiplied with each other at once: enough for a matrix product not to wait for memory."""
SLICE = 1 << 16
"""Coefficients summed in single precision; sums of slices are in double."""


@dataclass(frozen=True)
class Layout:
    """Sizes of the fit; the meaning of each is in :class:`volgen.models.preconditioners.gaussian.Config`."""

    levels: int
    rank: int
    rank_level: int
    folds: int


@dataclass(frozen=True)
class Statistics:
    """The fitted Gaussian, in pyramid coefficients, float32.

    Attributes:
        mean: m, [1, X, Y, Z].
        components: U, orthonormal, [1, r, x, y, z].
        residual: v, [X, Y, Z].
        variances: l, [r].
    """

    mean: Tensor
    components: Tensor
    residual: Tensor
    variances: Tensor


@dataclass(frozen=True)
class Folds:
    """What training needs to leave people out. Differences of these give away single people: a finished run must not hold them.

    Attributes:
        number: int64 [n], the fold that holds each training volume.
        means: m without each fold, [k, X, Y, Z].
        components: U without each fold, [k, r, x, y, z].
    """

    number: Tensor
    means: Tensor
    components: Tensor


def fit(
    layout: Layout, volumes: Callable[[], Iterable[Tensor]], people: Sequence[str], seed: int, finest: Sequence[int] = (),
    loaded: list[Tensor] | None = None,
) -> tuple[Statistics, Folds]:  # fmt: skip
    """Means and components of the cohort and of the cohort without each fold; then variances of the held-out volumes.

    Every volume shows the components' corner; a finer band is estimated from those that show it.

    Args:
        layout: sizes.
        volumes: starts one pass over volumes [X, Y, Z].
        people: who each volume of a pass is of.
        seed: seed of the folds.
        finest: finest level that each volume shows, at most ``rank_level``; 0 for all if empty.
        loaded: gets the loadings of each volume on the components without each fold and on those of everybody, [folds + 1, r], each
            centred by the mean that belongs to them.

    Raises:
        ValueError: there are fewer people than folds, of all or of those who show a band.
    """
    fold = _folds(layout, people, seed)
    count = len(people)
    counts = torch.bincount(fold, minlength=layout.folds)
    rank = usable_rank(layout.rank, count, int(counts.max()))
    shows = _Shows(layout, finest or [0] * count, fold, people)

    def coefficients() -> Iterator[Tensor]:
        return (pyramid(volume[None, None].float(), layout.levels)[0, 0] for volume in volumes())

    means, mean, corners = _means(layout, coefficients, fold, shows, rank)
    # Fold k for k = 0 ... folds - 1: everybody else; the last one: everybody.
    subsets = [fold != k for k in range(layout.folds)] + [torch.ones_like(fold, dtype=torch.bool)]
    components = _components(corners, subsets, rank)
    del corners  # what was kept is not needed for the last pass
    residual, variances = torch.zeros_like(mean), torch.zeros(rank)
    corner = low_pass(mean.shape, layout.rank_level)
    for index, c in enumerate(coefficients()):
        basis = components[fold[index]]
        offset = c - means[fold[index]]
        loadings = torch.einsum("rxyz,xyz->r", basis, offset[corner])
        if loaded is not None:
            from_each = [c[corner] - centre[corner] for centre in (*means, mean)]
            loaded.append(torch.stack([torch.einsum("rxyz,xyz->r", *each) for each in zip(components, from_each, strict=True)]))
        offset[corner] -= torch.einsum("rxyz,r->xyz", basis, loadings)
        variances += loadings**2 / count
        for place, seen, _ in shows.by(index, mean.shape):
            residual[place].add_(offset[place].square_().div_(seen))
    return Statistics(mean[None], components[-1:].clone(), residual, variances), Folds(fold, means, components[:-1])


class _Shows:
    """Which bands of a pyramid each volume shows, and how many volumes show each.

    Args:
        layout: levels of the pyramid.
        finest: finest level of each volume.
        fold: fold of each volume.
        people: who each volume is of.

    Raises:
        ValueError: a band is shown by too few people to be estimated without each fold.
    """

    def __init__(self, layout: Layout, finest: Sequence[int], fold: Tensor, people: Sequence[str]) -> None:
        assert max(finest) <= layout.rank_level, "a volume does not show the corner of the components"
        self._finest, self._depth = finest, layout.rank_level
        seen = [[index for index, level in enumerate(finest) if level <= band] for band in range(layout.rank_level + 1)]
        self._counts = [torch.bincount(fold[some], minlength=layout.folds) for some in seen]
        for band, some in enumerate(seen):
            who = len({people[index] for index in some})
            if who < layout.folds or int(self._counts[band].max()) == len(some):
                found = f"scans of {who} people have voxels as small as those of level {band}"
                raise ValueError(f"{found}, and the structured Gaussian needs at least {layout.folds} people who show its finest bands")

    def everywhere(self, shape: Sequence[int]) -> Iterator[tuple[Index, int, Tensor]]:
        """Places of all bands, with the number of volumes that show each, and how many of them are in each fold."""
        return self._shown(0, shape)

    def by(self, index: int, shape: Sequence[int]) -> Iterator[tuple[Index, int, Tensor]]:
        """The same for the bands that one volume shows."""
        return self._shown(self._finest[index], shape)

    def _shown(self, finest: int, shape: Sequence[int]) -> Iterator[tuple[Index, int, Tensor]]:
        for band, place in subbands(shape, self._depth):
            if finest <= band:
                yield place, int(self._counts[band].sum()), self._counts[band]


def usable_rank(wanted: int, volumes: int, largest_fold: int) -> int:
    """Components to estimate: n volumes have n - 1 principal directions, and at most half of them are worth it."""
    return min(wanted, (volumes - largest_fold) // 2)


def fit_bytes(layout: Layout, shape: Sequence[int], volumes: int | None = None) -> int:
    """Largest memory of :func:`fit` to some number of volumes of a shape, or (None) to any (but for 24 bytes for each pair of them)."""
    voxels = math.prod(shape)
    corner = math.prod(size >> layout.rank_level for size in shape)
    rank, part, kept, pairs = layout.rank, PART, max(KEPT_BYTES, 4 * PART * corner), 0
    if volumes is not None:
        rank, part = usable_rank(rank, volumes, -(-volumes // layout.folds)), min(PART, volumes)
        kept, pairs = min(kept, 4 * volumes * corner), 24 * volumes**2
    result = (layout.folds + 2) * voxels + (layout.folds + 1) * rank * corner
    # Beside the result: two parts, a basis while it is made orthonormal (thrice), and a volume on its way to the sums (six times).
    work = 2 * part * corner + 3 * rank * corner + 6 * voxels
    return 4 * (result + work) + kept + pairs


def _folds(layout: Layout, people: Sequence[str], seed: int) -> Tensor:
    """The fold of each volume. All scans of a person share one: another visit of the same brain is no held-out brain."""
    unique = sorted(set(people))
    if len(unique) < layout.folds:
        raise ValueError(f"the structured Gaussian needs at least {layout.folds} people in the training split, found {len(unique)}")
    place = dict(zip(unique, permutation(len(unique), seed, "folds"), strict=True))
    return torch.tensor([place[person] % layout.folds for person in people])


@dataclass(frozen=True)
class _Corners:
    """Low-pass corners of all volumes less their mean: kept if they fit into memory, else read again for each pass.

    Attributes:
        mean: [x, y, z].
        count: n.
        held: number of volumes that may be in memory.
        kept: all corners [n, x, y, z], or None.
        read: starts a pass over corners [x, y, z].
    """

    mean: Tensor
    count: int
    held: int
    kept: Tensor | None
    read: Callable[[], Iterator[Tensor]]

    def parts(self, first: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Number of its first volume and centred corners [at most PART, p], from volume ``first`` on."""
        if self.kept is not None:
            yield from ((start, self.kept[start : start + PART].flatten(1)) for start in range(first, self.count, PART))
            return
        part, start = self.mean.new_empty(0), first
        for index, corner in enumerate(self.read()):
            if index < first:
                continue
            if index == start:
                part = torch.empty(min(PART, self.count - start), self.mean.numel())
            part[index - start] = (corner - self.mean).flatten()
            if index - start == len(part) - 1:
                yield start, part
                start = index + 1


def _means(
    layout: Layout, coefficients: Callable[[], Iterator[Tensor]], fold: Tensor, shows: _Shows, rank: int
) -> tuple[Tensor, Tensor, _Corners]:
    """The first pass: means without each fold [k, X, Y, Z], of all [X, Y, Z], and the corners."""
    sums: Tensor | None = None
    kept: Tensor | None = None
    count, held, seen = len(fold), PART, 0
    for index, c in enumerate(coefficients()):
        low = c[low_pass(c.shape, layout.rank_level)]
        if sums is None:
            sums = torch.zeros(layout.folds, *c.shape)
            held = max(PART, KEPT_BYTES // (4 * low.numel()) // PART * PART)
            kept = torch.empty(count, *low.shape) if rank and count <= held else None
        for place, _, _ in shows.by(index, c.shape):
            sums[fold[index]][place].add_(c[place])
        seen += 1
        if kept is not None:
            kept[index] = low
    assert sums is not None and seen == count, "a pass has one volume for each of `people`"
    corner = low_pass(sums.shape[1:], layout.rank_level)
    mean = sums.sum(dim=0)
    sums.neg_().add_(mean)  # in place: of 256^3 voxels this is most of what is kept
    for place, seen, counts in shows.everywhere(mean.shape):
        sums[place].div_((seen - counts)[:, None, None, None])
        mean[place].div_(seen)
    middle = mean[corner].clone()
    if kept is not None:
        kept -= middle
    return sums, mean, _Corners(middle, count, held, kept, lambda: (c[corner] for c in coefficients()))


def _components(corners: _Corners, subsets: Sequence[Tensor], rank: int) -> Tensor:
    """Leading principal directions of each subset of volumes, orthonormal, [subsets, r, x, y, z]."""
    shape = (len(subsets), rank, *corners.mean.shape)
    if not rank:
        return torch.zeros(shape)
    gram = _gram(corners)
    weights = torch.cat([_weights(gram, subset, rank) for subset in subsets])
    directions = torch.zeros(len(weights), corners.mean.numel())
    for start, part in corners.parts():
        directions.addmm_(weights[:, start : start + len(part)], part)
    for number in range(len(subsets)):
        mine = directions[number * rank : (number + 1) * rank]
        mine.copy_(torch.linalg.qr(mine.T)[0].T)
    return directions.view(shape)


def _gram(corners: _Corners) -> Tensor:
    """Inner products of all pairs of volumes, float64 [n, n]: each pass multiplies one block with everything behind it."""
    gram = torch.zeros(corners.count, corners.count, dtype=torch.float64)
    for first in range(0, corners.count, corners.held):
        block: list[tuple[int, Tensor]] = []
        for start, part in corners.parts(first):
            if start < first + corners.held:
                block.append((start, part))
            for place, other in block:
                products = _products(other, part)
                gram[place : place + len(other), start : start + len(part)] = products
                gram[start : start + len(part), place : place + len(other)] = products.T
    return gram


def _products(a_np: Tensor, b_mp: Tensor) -> Tensor:
    """Inner products [n, m] of rows."""
    slices = zip(a_np.split(SLICE, dim=1), b_mp.split(SLICE, dim=1), strict=True)
    return torch.stack([(a @ b.T).double() for a, b in slices]).sum(dim=0)


def _weights(gram: Tensor, subset: Tensor, rank: int) -> Tensor:
    """What each volume contributes to the principal directions of a subset of them, float32 [r, n]."""
    chosen = gram[subset][:, subset]
    centred = chosen - chosen.mean(dim=0) - chosen.mean(dim=1, keepdim=True) + chosen.mean()
    _, vectors = eigh(centred.numpy(), subset_by_index=[len(centred) - rank, len(centred) - 1])
    leading = torch.from_numpy(vectors).flip(1).T
    weights = torch.zeros(rank, len(gram))
    weights[:, subset] = (leading - leading.mean(dim=1, keepdim=True)).float()
    return weights
