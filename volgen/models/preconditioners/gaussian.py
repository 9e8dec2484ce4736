"""Structured Gaussian preconditioning: the skip path is the denoiser of a Gaussian fitted to the cohort.

EDM's skip path (Karras et al. 2022) is the exact denoiser of N(0, sigma_data^2 I). Heads that share a frame are far from that. Here
the Gaussian has the cohort's mean m, a low-rank covariance U diag(l) U^T and, outside of that subspace, a variance v for each
coefficient of an orthonormal Haar pyramid, in which white noise stays white:

    D(y, s) = m + U l/(l + s^2) U^T d + v/(v + s^2) (d - U U^T d) + q(s) F(inputs, s),      d = y - m
    e(s)    = s^2 v/(v + s^2) + sum_j U_j^2 s^2 l_j/(l_j + s^2)

e(s) is the posterior variance of each coefficient and q(s)^2 that of each voxel, averaged over 3^3 neighbours. So the network's output has
unit scale everywhere and at every noise level, and where every head has air q is 0: the mean is returned whatever the network
says. (Scaling each coefficient by its own sqrt(e) instead looks more exact, but the estimates of v are grainy, a convolution
cannot undo that grain, and training is measurably slower: see docs/models.md.)

The fit knows the people it was made from. If a network were trained behind it on the same people, it would learn to correct an
estimate that is far better than what any new sample gets. So everything is cross-fitted: v and l are measured on people outside of
the fold that m and U come from, and in training each volume is seen through the m and U of the folds without it (`held_out`).

With ``told``, the Gaussian knows what conditions say of people: :meth:`GaussianPreconditioner.told` is the Gaussian of those of whom
that is true, whose loadings on U have another mean and spread less (:mod:`volgen.models.preconditioners._gaussian_told`). Slopes are
cross-fitted like everything else. Told nothing, it is the Gaussian of everybody.

Legend: B batch, C channel, r low-rank components, k folds, X Y Z coefficients of a volume, x y z the low-pass corner of the components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor
from torch.nn.functional import avg_pool3d

from volgen.core.config import Config as BaseConfig
from volgen.core.given import Given, Known
from volgen.core.limits import MAX_LEVELS, MAX_RANK
from volgen.core.noise import c_noise
from volgen.core.progress import say
from volgen.core.protocols import Covariance, FlowMap, Shape3
from volgen.models.denoiser import UNKNOWN, Network, Preconditioner
from volgen.models.haar import low_pass, pyramid, unpyramid, voxel_variance
from volgen.models.preconditioners._gaussian_compact import is_packed, packed, unpacked
from volgen.models.preconditioners._gaussian_covariance import GaussianCovariance
from volgen.models.preconditioners._gaussian_fit import Folds, Layout, Statistics, fit, fit_bytes, usable_rank
from volgen.models.preconditioners._gaussian_flow import flowed, unnoised
from volgen.models.preconditioners._gaussian_pieces import GaussianPieces, Variances
from volgen.models.preconditioners._gaussian_told import Telling, fit_telling, restored

FOLD_PREFIX = "fold_"
NEGLIGIBLE = 0.05
"""Share of the slopes of a fit that holds for others, below which being told is of no use."""
NEVER = 1e30
"""A feature that nobody has: it stands for those that are not told, where features are compared."""


class Config(BaseConfig):
    """The default: an order of magnitude less training than a scalar skip path on cohorts that share a frame."""

    kind: Literal["gaussian"] = "gaussian"
    fitted: ClassVar[bool] = True
    levels: int = Field(default=1, ge=0, le=MAX_LEVELS)
    """Levels of the Haar pyramid in which the residual variance is diagonal; 0 means voxels. Edges must divide by 2^levels."""
    rank: int = Field(default=24, ge=0, le=MAX_RANK)
    """Components of the low-rank covariance; at most half the number of training volumes are used."""
    rank_level: NonNegativeInt = 1
    """The components live in the low-pass corner after this many levels, at most ``levels`` (0: the whole volume)."""
    folds: int = Field(default=6, ge=2, le=MAX_RANK)
    """Folds of the cross-fit; each keeps a mean and components of its own while training."""
    mirrored: bool = False
    """Whether each volume is fitted together with its mirror image, left for right: for cohorts whose midsagittal plane lies in the middle
    of the volume, with ``data.augment.flip_left_right``. It doubles what components are estimated from."""
    told: bool = False
    """Whether the Gaussian knows what ``conditions`` say of people, but for texts: its mean is linear in them. Sampling then begins with
    those who are asked for, so that ``schedule.sigma_max`` need not be far above the largest component."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.told and not self.rank:
            raise ValueError("told needs components, whose loadings follow from what is told: rank is 0")
        if self.rank_level > self.levels:
            raise ValueError(f"rank_level {self.rank_level} is above levels {self.levels}: there is no such low-pass corner")
        return self

    @property
    def inputs(self) -> int:
        """The scaled noisy volume and the Gaussian estimate."""
        return 2

    @property
    def multiple(self) -> int:
        """Each edge of a volume must be a multiple of this."""
        return int(2**self.levels)

    @property
    def anywhere(self) -> bool:
        """Whether any piece of a volume can be denoised: it cannot, every voxel has a mean and a variance of its own."""
        return False

    @property
    def coarsest(self) -> int:
        """Components inside of the low-pass corner of a level leave the finer bands to variances of single coefficients."""
        return self.rank_level

    def fit(
        self, volumes: Callable[[], Iterable[Tensor]], people: Sequence[str], seed: int, finest: Sequence[int] = (),
        told: Mapping[str, Known] = UNKNOWN,
    ) -> Preconditioner:  # fmt: skip
        """Estimates mean, components and cross-fitted variances; those of a band from the volumes that show it.

        Raises:
            ValueError: there are fewer people than folds, of all or of those who show a band; or too few for what is told of them.
        """
        each = 2 if self.mirrored else 1
        shown = (lambda: (one for volume in volumes() for one in (volume, volume.flip(0)))) if self.mirrored else volumes
        loaded: list[Tensor] | None = [] if self.told and told else None
        who, depth = [one for one in people for _ in range(each)], [one for one in finest for _ in range(each)]
        statistics, folds = fit(self.layout, shown, who, seed, depth, loaded)
        telling: tuple[Telling, Telling] | tuple[None, None] = (None, None)
        if loaded:
            known = {name: replace(known, values=known.values.repeat_interleave(each)) for name, known in told.items()}
            everybody, outside, share = fit_telling(known, torch.stack(loaded), folds.number, statistics.variances, who)
            telling = (everybody, outside)
            if share < NEGLIGIBLE:
                seem = f"what is told says nothing of people outside of the fit (slopes are {share:.2f} of what they seem)"
                say(f"warning: {seem}: preconditioner.told is of no use here.")
        # A training volume and its mirror image are of one person, hence of one fold.
        return GaussianPreconditioner(self, statistics, replace(folds, number=folds.number[::each].clone()), *telling)

    def blank(self, shape: Shape3, volumes: int) -> Preconditioner:
        """Zeros as large as a fit."""
        fitted = self._fitted(volumes)
        rank = usable_rank(self.rank, fitted, -(-fitted // self.folds))
        corner = [size >> self.rank_level for size in shape]
        statistics = Statistics(torch.zeros(1, *shape), torch.zeros(1, rank, *corner), torch.zeros(shape), torch.zeros(rank))
        number, means = torch.zeros(volumes, dtype=torch.int64), torch.zeros(self.folds, *shape)
        return GaussianPreconditioner(self, statistics, Folds(number, means, torch.zeros(self.folds, rank, *corner)))

    def fit_bytes(self, shape: Shape3, volumes: int | None = None) -> int:
        """Host memory of the fit in bytes, most of which the folds' components take."""
        return fit_bytes(self.layout, shape, None if volumes is None else self._fitted(volumes))

    def _fitted(self, volumes: int) -> int:
        """Volumes that the fit sees."""
        return 2 * volumes if self.mirrored else volumes

    @property
    def layout(self) -> Layout:
        """Sizes of the fit."""
        return Layout(self.levels, self.rank, self.rank_level, self.folds)

    def restore(self, state: Mapping[str, Tensor]) -> Preconditioner:
        """The preconditioner from :meth:`GaussianPreconditioner.state`, with or without what training needs; or from what was compact.

        Raises:
            KeyError: a tensor is missing.
            ValueError: tensors do not belong together.
        """
        if is_packed(state):
            return GaussianPreconditioner(self, unpacked(state, self.levels), None, *restored(state))
        statistics = Statistics(**{field.name: state[field.name] for field in fields(Statistics)})
        folds = Folds(*(state[FOLD_PREFIX + field.name] for field in fields(Folds))) if FOLD_PREFIX + "number" in state else None
        return GaussianPreconditioner(self, statistics, folds, *restored(state))


class GaussianPreconditioner:
    """The denoiser described at the top of this file."""

    def __init__(
        self, config: Config, statistics: Statistics, folds: Folds | None = None, telling: Telling | None = None,
        telling_folds: Telling | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self._fitted = statistics
        self.folds = folds
        if telling is not None and telling.shared.shape[1] != len(statistics.variances):
            raise ValueError(f"what is told is of {telling.shared.shape[1]} components, and there are {len(statistics.variances)}")
        self._telling, self._telling_folds = telling, telling_folds
        self._last: tuple[Tensor, _Told] | None = None
        self._corner = low_pass(statistics.mean.shape[1:], config.rank_level)
        self._coarser: dict[int, Self] = {}

    @cached_property
    def statistics(self) -> Statistics:
        """What it is the Gaussian of."""
        return self._fitted

    def denoise(self, network: Network, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """Posterior mean of the Gaussian plus the network's correction, in units of the posterior's standard deviation."""
        estimate = self.expected(y_BCXYZ, sigma_B)
        centred = y_BCXYZ - self._synthesise(self.statistics.mean[:, None])
        scale = (self.statistics.residual.mean() + sigma_B**2).rsqrt()
        output = network(torch.cat([centred * _over(scale), estimate], dim=1), c_noise(sigma_B))
        return estimate + self._scale(sigma_B) * output.float()

    def expected(self, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """The skip path alone: E[x0 | y] of the fitted Gaussian."""
        s = self.statistics
        offset = pyramid(y_BCXYZ, self.config.levels) - s.mean[:, None]
        inside = s.variances / (s.variances + sigma_B[:, None] ** 2)
        outside = s.residual / (s.residual + _over(sigma_B) ** 2)
        return self._synthesise(s.mean[:, None] + self._filtered(offset, inside, outside))

    def coarse(self, level: int) -> Self:
        """The Gaussian of means over cubes: its corner, in which coefficients are 2^(-1.5 level) times those of the volume.

        What it expects of the means is the means of what is expected of the volume: bands are independent.
        """
        if not level:
            return self
        if level in self._coarser:  # two experts in memory need it once
            return self._coarser[level]
        assert level <= self.config.coarsest, "components reach into the bands that would be left out"
        corner, scale, s = low_pass(self.statistics.mean.shape[1:], level), 2.0 ** (-1.5 * level), self.statistics
        seen = Statistics(s.mean[corner] * scale, s.components, s.residual[corner] * scale**2, s.variances * scale**2)
        folds = replace(self.folds, means=self.folds.means[corner] * scale) if self.folds else None
        depth = {"levels": self.config.levels - level, "rank_level": self.config.rank_level - level}
        telling = (each.times(scale) if each else None for each in (self._telling, self._telling_folds))
        self._coarser[level] = type(self)(self.config.model_copy(update=depth), seen, folds, *telling)
        return self._coarser[level]

    def pieces(self) -> GaussianPieces:
        """The Gaussian of pieces, in which coefficients are independent."""
        return self._pieces

    @cached_property
    def _pieces(self) -> GaussianPieces:
        return GaussianPieces(self.config.layout, self.statistics, Variances(self.config.layout, self.statistics))

    def prior(self, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """A sample of the Gaussian under noise: exact at any sigma at which the fit describes the data.

        So the grid may start at a noise level that does not drown the data, and no expert is spent above it.
        """
        return self.noised(noise_BCXYZ, sigma)

    def noised(self, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
        """Samples of the Gaussian under noise, m + (covariance + s^2)^(1/2) z."""
        s = self.statistics
        inside, outside = torch.atleast_2d((s.variances + sigma**2).sqrt()), (s.residual + sigma**2).sqrt()
        return self._synthesise(s.mean[:, None] + self._filtered(pyramid(noise_BCXYZ, self.config.levels), inside, outside))

    @property
    def covariance(self) -> Covariance | None:
        """That of the Gaussian."""
        return GaussianCovariance(self.config.layout, self._fitted)

    @property
    def flow_map(self) -> FlowMap | None:
        """That of the Gaussian (:mod:`volgen.models.preconditioners._gaussian_flow`)."""
        return self._flowed

    def _flowed(self, x_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor) -> Tensor:
        return flowed(self.config.layout, self.statistics, x_BCXYZ, sigma_B, to_B)

    def told(self, given: Given) -> Preconditioner:
        """The Gaussian of those of whom it is true, row by row; itself where nothing is told that it knows of."""
        features_Bp = self._telling.read(given.fitted) if self._telling else None
        return self if features_Bp is None else self._of(features_Bp)

    def _of(self, features_Bp: Tensor) -> _Told:
        """The Gaussian of features; the last one is kept, as samplers ask for it in each step."""
        if self._last is None or not torch.equal(self._last[0].nan_to_num(NEVER), features_Bp.nan_to_num(NEVER)):
            self._last = (features_Bp, _Told(self, features_Bp))
        return self._last[1]

    def _conditional(self, features_Bp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, directions and variances of loadings (:meth:`volgen.models.preconditioners._gaussian_told.Telling.told`)."""
        assert self._telling is not None, "it was told something"
        return self._telling.told(features_Bp, [0] * len(features_Bp), self._fitted.variances)

    def carried(self, x_BCXYZ: Tensor, sigma: float, to: Preconditioner) -> Tensor:
        """The same noise under ``to``, where that is a Gaussian and either of the two is told something; else the volumes as they are."""
        if self is to or not isinstance(to, GaussianPreconditioner) or not (isinstance(self, _Told) or isinstance(to, _Told)):
            return x_BCXYZ
        here = x_BCXYZ.to(self.statistics.residual.device)
        return to.noised(unnoised(self.config.layout, self.statistics, here, sigma), sigma).to(x_BCXYZ.device)

    def weight(self, sigma_B: Tensor) -> Tensor:
        """1 / mean posterior variance: one number per volume (a weight per coefficient trains worse)."""
        return 1.0 / self._variance(sigma_B).mean(dim=(1, 2, 3, 4))

    def held_out(self, volumes: Sequence[int]) -> Preconditioner:
        """The Gaussian as fitted without the fold of each training volume, one per element of a batch."""
        assert self.folds is not None, "this preconditioner was restored for sampling"
        return _HeldOut(self, self.folds.number[list(volumes)])

    def state(self, *, training: bool = False) -> dict[str, Tensor]:
        """The statistics by name; with ``training`` also the folds."""
        tensors = {field.name: getattr(self.statistics, field.name) for field in fields(Statistics)}
        tensors |= self._telling.state() if self._telling else {}
        if training and self.folds is not None:
            tensors |= {FOLD_PREFIX + field.name: getattr(self.folds, field.name) for field in fields(Folds)}
            tensors |= self._telling_folds.fold_state() if self._telling_folds else {}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def compact(self) -> dict[str, Tensor]:
        """The statistics in few bytes (:mod:`volgen.models.preconditioners._gaussian_compact`)."""
        return packed(self.statistics, self.config.levels) | (self._telling.state() if self._telling else {})

    def to(self, device: torch.device) -> Self:
        """Moves the statistics, and the folds if there are any."""
        moved = self.config.restore({name: tensor.to(device) for name, tensor in self.state(training=True).items()})
        assert isinstance(moved, type(self))
        return moved

    def _scale(self, sigma_B: Tensor) -> Tensor:
        """q(s), [B, 1, X, Y, Z]."""
        return avg_pool3d(voxel_variance(self._variance(sigma_B), self.config.levels), 3, 1, 1, count_include_pad=False).sqrt()

    def _filtered(self, c_BCXYZ: Tensor, inside_Br: Tensor, outside: Tensor) -> Tensor:
        """U inside U^T c + outside (c - U U^T c), of coefficients c."""
        components = self.statistics.components.expand(len(c_BCXYZ), *self.statistics.components.shape[1:])
        loadings_BCr = torch.einsum("brxyz,bcxyz->bcr", components, c_BCXYZ[self._corner])
        result = outside * c_BCXYZ
        low = outside.expand_as(c_BCXYZ)[self._corner] * self._combine(loadings_BCr, components)
        result[self._corner] += self._combine(loadings_BCr * inside_Br[:, None], components) - low
        return result

    def _combine(self, loadings_BCr: Tensor, components: Tensor) -> Tensor:
        return torch.einsum("brxyz,bcr->bcxyz", components.expand(len(loadings_BCr), *components.shape[1:]), loadings_BCr)

    def _synthesise(self, coefficients_BCXYZ: Tensor) -> Tensor:
        return unpyramid(coefficients_BCXYZ, self.config.levels)

    def _variance(self, sigma_B: Tensor) -> Tensor:
        """e(s), [B, 1, X, Y, Z]."""
        s = self.statistics
        noise = _over(sigma_B) ** 2
        variance = noise * s.residual / (s.residual + noise)
        spread_Br = sigma_B[:, None] ** 2 * s.variances / (s.variances + sigma_B[:, None] ** 2)
        variance[self._corner] += self._combine(spread_Br[:, None], s.components**2)
        return variance


class _HeldOut(GaussianPreconditioner):
    """The Gaussian without a fold for each element of a batch; of whole volumes, which patches need not, only when it is asked about."""

    def __init__(self, whole: GaussianPreconditioner, fold_B: Tensor) -> None:
        super().__init__(whole.config, whole.statistics)
        assert whole.folds is not None, "this preconditioner was restored for sampling"
        self._whole, self._without, self._fold_B = whole, whole.folds, fold_B

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and components of the fold of each element; variances are those of everybody."""
        seen = {"mean": self._without.means[self._fold_B], "components": self._without.components[self._fold_B]}
        return replace(self._fitted, **seen)

    def coarse(self, level: int) -> Self:
        """The same of means over cubes."""
        return type(self)(self._whole.coarse(level), self._fold_B) if level else self

    def to(self, device: torch.device) -> Self:
        """Moves what it is put together from."""
        return type(self)(self._whole.to(device), self._fold_B.to(device))

    def told(self, given: Given) -> Preconditioner:
        """The same of those of whom it is true."""
        features_Bp = self._whole._telling.read(given.fitted) if self._whole._telling_folds and self._whole._telling else None
        return self if features_Bp is None else self._of(features_Bp)

    def _conditional(self, features_Bp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, directions and variances by slopes that come from other folds than the rows'."""
        assert self._whole._telling_folds is not None, "it was told something"
        return self._whole._telling_folds.told(features_Bp, self._fold_B.tolist(), self._fitted.variances)

    def pieces(self) -> GaussianPieces:
        """Those of each element's fold."""
        return self._whole.pieces().without(self._without, self._fold_B)


class _Told(GaussianPreconditioner):
    """The Gaussian of those of whom something is true, one for each element of a batch; features of which nothing is told are NaN."""

    def __init__(self, inner: GaussianPreconditioner, features_Bp: Tensor) -> None:
        super().__init__(inner.config, inner._fitted)
        self._inner, self._features_Bp = inner, features_Bp

    @cached_property
    def statistics(self) -> Statistics:
        """Mean, components and variances of each element; what lies outside of the components is that of everybody."""
        s = self._inner.statistics
        mean_Br, turn_Brq, left_Br = self._inner._conditional(self._features_Bp)
        components = s.components.expand(len(mean_Br), *s.components.shape[1:])
        mean = s.mean.expand(len(mean_Br), *s.mean.shape[1:]).clone()
        mean[self._corner] += torch.einsum("brxyz,br->bxyz", components, mean_Br)
        return Statistics(mean, torch.einsum("brxyz,brq->bqxyz", components, turn_Brq), s.residual, left_Br)

    def coarse(self, level: int) -> Self:
        """The same of means over cubes."""
        return type(self)(self._inner.coarse(level), self._features_Bp) if level else self

    def to(self, device: torch.device) -> Self:
        """Moves what it is put together from."""
        return type(self)(self._inner.to(device), self._features_Bp)

    def told(self, given: Given) -> Preconditioner:
        """The Gaussian of those of whom something else is true."""
        return self._inner.told(given)

    def pieces(self) -> GaussianPieces:
        """The Gaussian of pieces of each element."""
        s, own = self.statistics, torch.arange(len(self._features_Bp), device=self._fitted.residual.device)
        return replace(self._inner.pieces(), statistics=s).without(Folds(own, s.mean, s.components), own)

    @property
    def covariance(self) -> Covariance | None:
        """That of the Gaussian of a single element."""
        assert len(self._features_Bp) == 1, "a covariance is of volumes of which one thing is true"
        return GaussianCovariance(self.config.layout, replace(self.statistics, variances=self.statistics.variances[0]))


def _over(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None, None]
