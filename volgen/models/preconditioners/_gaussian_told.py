"""What the structured Gaussian knows of people: their loadings on its components, and what is told of them, are jointly Gaussian.

What is told becomes features f: a number is one, a word of K has K of which one is 1. With C the covariance of loadings and features and F
that of features, told some of them, S, somebody's loadings are of

    N(C_S F_SS^+ (f_S - mean of f_S),  diag(l) - C_S F_SS^+ C_S^T),

l being the variances of everybody, which is what is left if nothing is told. Covariances are those of people whose value is known.

Slopes of few people are those of chance too, and explain these people far better than others. So C is multiplied by a number that is
measured on people outside of the fold that slopes come from: the slope of their loadings on predicted ones, at most 1, so that they show
what is predicted of them. Of many people it is 1. The components hold what is told without being made for it: those of 64 people at 4 mm
hold 0.99 of the slopes of age and of sex.

Legend: n volumes, r components, p features, K fits (that to everybody, or one without each fold), B rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from volgen.core.given import Known

MOST = 64
"""Features that a Gaussian is told of at most."""
PREFIX, COVARIANCE, SHARED = "told_", "told_covariance", "told_shared"
FOLD_CENTRE, FOLD_COVARIANCE, FOLD_SHARED = "fold_told_centre", "fold_told_covariance", "fold_told_shared"
SINGULAR = 1e-6
"""Share of the largest variance of told features below which a direction of them has none: words of all kinds sum to 1."""
LEAST = 0.02
"""Share of its variance that a direction keeps at least, whatever is told."""
FEWEST = 3
"""People of whom a word has to be true: the mean of those of whom it is true would be one person, or two."""


@dataclass(frozen=True)
class Feature:
    """A condition that the Gaussian is told.

    Attributes:
        name: what it is called.
        words: how many there are; 0: it is a number.
    """

    name: str
    words: int

    @property
    def width(self) -> int:
        """How many features it has."""
        return max(1, self.words)

    def of(self, value_B: Tensor) -> Tensor:
        """Features [B, width]; NaN where it is not told, or there is no such word."""
        if not self.words:
            return value_B[:, None].double()
        rows_BK = (torch.arange(self.words, device=value_B.device) == value_B[:, None].round()).double()
        return torch.where(rows_BK.sum(dim=1, keepdim=True) > 0, rows_BK, math.nan)


@dataclass(frozen=True)
class Telling:
    """How loadings follow from features; float64.

    Attributes:
        features: conditions, in the order of their features.
        centre: means of features, [K, p].
        covariance: F, [K, p, p].
        shared: C, [K, r, p].
    """

    features: tuple[Feature, ...]
    centre: Tensor
    covariance: Tensor
    shared: Tensor
    _kept: dict[tuple[int, tuple[bool, ...]], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def read(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """Features [B, p] of what is told of the rows of a batch, on the CPU, NaN where nothing is; None if nothing is told of any."""
        there = [values[each.name] for each in self.features if each.name in values]
        if not there:
            return None
        count, none = len(there[0]), there[0].new_full((len(there[0]),), math.nan)
        found = torch.cat([each.of(values.get(each.name, none)) for each in self.features], dim=1).cpu()
        assert len(found) == count
        return None if bool(found.isnan().all()) else found

    def told(self, features_Bp: Tensor, fit_B: Sequence[int], variances_r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loadings of whom it is true: means [B, r], directions [B, r, r] (columns, orthonormal) and variances along these [B, r].

        Args:
            features_Bp: from :meth:`read`.
            fit_B: which fit each row is seen through.
            variances_r: l.
        """
        count, rank = len(features_Bp), len(variances_r)
        mean_Br, turn_Brr, left_Br = (torch.zeros(count, *shape, dtype=torch.float64) for shape in ((rank,), (rank, rank), (rank,)))
        alike: dict[tuple[int, tuple[bool, ...]], list[int]] = {}
        for row, (fit, told) in enumerate(zip(fit_B, (~features_Bp.isnan()).tolist(), strict=True)):
            alike.setdefault((fit, tuple(told)), []).append(row)
        for (fit, told), rows in alike.items():
            gain_rp, turn_Brr[rows], left_Br[rows] = self._conditional(fit, told, variances_r)
            mean_Br[rows] = (features_Bp[rows] - self.centre[fit]).nan_to_num(0.0) @ gain_rp.T
        return tuple(each.to(variances_r.device, torch.float32) for each in (mean_Br, turn_Brr, left_Br))  # type: ignore[return-value]

    def _conditional(self, fit: int, told: tuple[bool, ...], variances_r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gain [r, p], directions and variances of one fit and one choice of features; those of everybody as they are."""
        if (fit, told) not in self._kept:
            l_r, shared, mask = variances_r.double().cpu(), self.shared[fit], torch.tensor(told)
            gain = torch.zeros_like(shared)
            if not any(told):
                return gain, torch.eye(len(l_r), dtype=torch.float64), l_r
            inner = self.covariance[fit][mask][:, mask]
            gain[:, mask] = shared[:, mask] @ _inverse(inner)
            left, turn = torch.linalg.eigh(torch.diag(l_r) - gain @ shared.T)
            self._kept[fit, told] = gain, turn, left.clamp(min=0.0)
        return self._kept[fit, told]

    def times(self, scale: float) -> Self:
        """The same of loadings that are ``scale`` times as much of features."""
        return replace(self, shared=self.shared * scale, _kept={})

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, of a fit to everybody."""
        parts = self.centre[0].split([each.width for each in self.features])
        named = {f"{PREFIX}{k}_{each.words}_{each.name}": part for k, (each, part) in enumerate(zip(self.features, parts, strict=True))}
        return _single({**named, COVARIANCE: self.covariance[0], SHARED: self.shared[0]})

    def fold_state(self) -> dict[str, Tensor]:
        """Tensors by name, of fits without each fold."""
        return _single({FOLD_CENTRE: self.centre, FOLD_COVARIANCE: self.covariance, FOLD_SHARED: self.shared})


def restored(state: Mapping[str, Tensor]) -> tuple[Telling | None, Telling | None]:
    """What :meth:`Telling.state` made, and :meth:`Telling.fold_state`; None where they are not there.

    Raises:
        KeyError: a tensor is missing.
        ValueError: tensors do not belong together.
    """
    if SHARED not in state:
        return None, None
    # Features are read on the CPU, where choices of them are looked up: all of this is small. Fake tensors stay what they are.
    state = {name: tensor if tensor.is_meta else tensor.cpu().double() for name, tensor in state.items() if PREFIX in name}
    found = []
    for name, tensor in state.items():
        place, _, rest = name.removeprefix(PREFIX).partition("_")
        if name.startswith(PREFIX) and place.isdigit():
            words, _, called = rest.partition("_")
            found.append((int(place), Feature(called, int(words)), tensor))
    found.sort(key=lambda each: each[0])
    features = tuple(each for _, each, _ in found)
    centre = torch.cat([tensor for _, _, tensor in found])
    covariance, shared = state[COVARIANCE], state[SHARED]
    wide = sum(each.width for each in features)
    if covariance.shape != (wide, wide) or shared.dim() != 2 or shared.shape[1] != wide or centre.shape != (wide,):
        raise ValueError(f"'{COVARIANCE}' is {list(covariance.shape)} and '{SHARED}' is {list(shared.shape)}, of {wide} features")
    everybody = Telling(features, centre[None], covariance[None], shared[None])
    if FOLD_SHARED not in state:
        return everybody, None
    if state[FOLD_SHARED].shape[1:] != shared.shape or state[FOLD_COVARIANCE].shape[1:] != covariance.shape:
        raise ValueError(f"'{FOLD_SHARED}' is {list(state[FOLD_SHARED].shape)}, of {list(shared.shape)}")
    return everybody, Telling(features, state[FOLD_CENTRE], state[FOLD_COVARIANCE], state[FOLD_SHARED])


def _single(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


def _inverse(covariance_pp: Tensor) -> Tensor:
    """The pseudoinverse of a covariance of features, whatever their units: years beside millilitres, or beside words."""
    size_p = covariance_pp.diagonal().clamp(min=0.0).sqrt()
    per_p = torch.where(size_p > 0, 1.0 / size_p.clamp(min=1e-300), 0.0)
    scale_pp = per_p[:, None] * per_p
    inverse_pp: Tensor = torch.linalg.pinv(covariance_pp * scale_pp, rtol=SINGULAR, hermitian=True)
    return scale_pp * inverse_pp


def fit_telling(
    told: Mapping[str, Known], loadings: Tensor, fold: Tensor, variances: Tensor, people: Sequence[str]
) -> tuple[Telling, Telling, float]:
    """Fits to everybody, and without each fold.

    Args:
        told: what is known of each volume.
        loadings: loadings of each volume on the components of the fits without each fold, and on those of everybody, [n, folds + 1, r];
            each is centred by the mean that belongs to them.
        fold: fold of each volume, [n].
        variances: l, [r].
        people: whose each volume is, [n]; what is counted are people, however many volumes they have.

    Returns:
        Both fits, and what slopes were multiplied with: 0 where nothing that is told holds for people outside of the folds.

    Raises:
        ValueError: there are too many features, or too few people of whom something is known or true.
    """
    features = tuple(Feature(name, known.words) for name, known in told.items())
    rows_np = torch.cat([each.of(known.values) for each, known in zip(features, told.values(), strict=True)], dim=1)
    count = len(set(people))
    most = min(MOST, count // 2)
    if rows_np.shape[1] > most:
        found = f"{rows_np.shape[1]} numbers and words are told of {count} people, and the structured Gaussian learns of {most} at most"
        raise ValueError(f"{found}: state fewer levels, or set preconditioner.told false")
    _check_people(features, rows_np, fold, people)
    loadings, folds = loadings.double(), loadings.shape[1] - 1
    subsets = [*(fold != k for k in range(folds)), torch.ones_like(fold, dtype=torch.bool)]
    fits = [_moments(loadings[subset, k], rows_np[subset]) for k, subset in enumerate(subsets)]
    centre, covariance, shared = (torch.stack(each) for each in zip(*fits, strict=True))
    everybody, outside = (Telling(features, centre[part], covariance[part], shared[part]) for part in (slice(-1, None), slice(-1)))
    own = loadings[torch.arange(len(fold)), fold]
    share = min(_shown(outside, own, rows_np, fold), _most([outside, everybody], variances.double()))
    return everybody.times(share), outside.times(share), share


def _check_people(features: Sequence[Feature], rows_np: Tensor, fold: Tensor, people: Sequence[str]) -> None:
    """Refuses what is known, or true, of so few people that slopes would be these."""
    names = [each.name for each in features for _ in range(each.width)]
    words = [each.words > 0 for each in features for _ in range(each.width)]
    do = "state `levels` without it (whoever has another word is not told it), or set preconditioner.told false"
    for name, is_word, column in zip(names, words, rows_np.T.tolist(), strict=True):
        known = [(person, int(k)) for person, value, k in zip(people, column, fold.tolist(), strict=True) if not math.isnan(value)]
        if any(len({person for person, own in known if own != k}) < 2 for k in set(fold.tolist())):
            raise ValueError(f"'{name}' is known of fewer than two people outside of a fold: set preconditioner.told false")
        true = {person for person, value in zip(people, column, strict=True) if value == 1.0}
        if is_word and 0 < len(true) < FEWEST:
            raise ValueError(f"a word of '{name}' is true of {len(true)} of the training people, and told of {FEWEST} at least: {do}")


def _moments(loadings_nr: Tensor, rows_np: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of features, their covariance, and that of loadings and features; each of those of whom it is known."""
    known_np = (~rows_np.isnan()).double()
    counts_p = known_np.sum(dim=0)
    centre_p = torch.where(known_np > 0, rows_np, 0.0).sum(dim=0) / counts_p
    centred_np = torch.where(known_np > 0, rows_np - centre_p, 0.0)
    pairs_pp = known_np.T @ known_np
    covariance = torch.where(pairs_pp > 1, centred_np.T @ centred_np / pairs_pp.clamp(min=1.0), 0.0)
    values, vectors = torch.linalg.eigh(covariance)  # of pairs that others know it need not be one
    covariance = vectors * values.clamp(min=0.0) @ vectors.T
    # A feature's mean over those who know it is 0, so the mean of their loadings drops out of the products.
    return centre_p, covariance, loadings_nr.T @ centred_np / counts_p


def _shown(telling: Telling, own_nr: Tensor, rows_np: Tensor, fold: Tensor) -> float:
    """The slope of loadings of people outside of the folds on what is predicted of them, from 0 to 1."""
    predicted = telling.told(rows_np, fold.tolist(), own_nr.square().mean(dim=0))[0].double()
    return min(max(float((own_nr * predicted).sum() / predicted.square().sum().clamp(min=1e-30)), 0.0), 1.0)


def _most(tellings: Sequence[Telling], variances_r: Tensor) -> float:
    """What slopes can be multiplied with at most, such that every direction of every fit keeps :data:`LEAST` of its variance."""
    root, worst = variances_r.clamp(min=1e-30).sqrt(), 1e-30
    for telling in tellings:
        for fit in range(len(telling.shared)):
            inverse = _inverse(telling.covariance[fit])
            white = telling.shared[fit] / root[:, None]
            worst = max(worst, float(torch.linalg.matrix_norm(white @ inverse @ white.T, 2)))
    return math.sqrt((1.0 - LEAST) / worst)
