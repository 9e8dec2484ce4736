"""The interfaces that let parts be swapped.

Legend: B batch, C channel, X Y Z voxels (left-right, posterior-anterior, inferior-superior: RAS+), T points of the sigma grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from volgen.core.given import NOTHING, Examples, Given


@runtime_checkable
class Denoiser(Protocol):
    """A noisy volume and its noise level in, the expected clean volume out.

    ``y = x0 + sigma * z`` with z standard normal; the ideal denoiser returns E[x0 | y, given]. Images are in the model range [-1, 1].
    """

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """Returns x0_BCXYZ, of the shape of ``y_BCXYZ``.

        Args:
            y_BCXYZ: noisy volumes.
            sigma_B: their noise levels, positive.
            given: what is known beside them.
        """
        ...


class Weighted(Denoiser, Protocol):
    """A denoiser that knows how much its errors matter."""

    def weight(self, sigma_B: Tensor) -> Tensor:
        """Positive weights [B] of squared errors, so that an untrained network has a loss near 1 at every noise level."""
        ...


class NoiseSchedule(Protocol):
    """Where on the sigma axis sampling takes place."""

    def grid(self, steps: int | None = None) -> list[float]:
        """Sampling points, descending, all positive; ``steps`` chooses that many of the schedule's own points, ends kept."""
        ...


@dataclass(frozen=True)
class Step:
    """One step of a sampler, from ``sigma`` to ``sigma_next``.

    Attributes:
        sigma: noise level of the incoming sample, positive.
        sigma_next: noise level to reach: lower, 0 for the last step of a descent; or higher, where a scan is inverted.
        noise: makes fresh standard normal noise shaped like the sample; a fixed function of seed, sample and step.
    """

    sigma: float
    sigma_next: float
    noise: Callable[[], Tensor]


class Sampler(Protocol):
    """A solver. The driver owns the loop; a solver knows one step. Who inherits from this has the defaults of what is declared.

    Attributes:
        order: global order of convergence of the mean trajectory, measured by a test.
        stochastic: whether ``step.noise`` is used; if not, it solves an ordinary differential equation, upwards as well as down.
        renoises: whether a step draws from N(D, sigma_next^2), so that nothing is left of the sample but what the denoiser made of it.
        straight: whether a step is D + sigma_next/sigma (x - D), so that a denoiser can say where it ends.
        remembers: what it remembers from one step to the next: for each item ``Tensor`` (one like the sample) or ``float``.
        evaluations: how often it asks the denoiser in its first step, and in each later one.
    """

    order: int
    stochastic: bool
    renoises: bool = False
    straight: bool = False
    remembers: tuple[type, ...] = ()
    evaluations: tuple[int, int] = (1, 1)

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """Returns the sample at ``step.sigma_next`` and what the next step wants to remember (``None`` at the start).

        ``denoise`` is asked about ``step.sigma`` only, so that a step needs one expert. What is remembered is None or a tuple of what
        ``remembers`` declares, after every step but the last. A solver that looks at both ends of a step (Heun's) may return a
        prediction and correct it at the beginning of the next one.
        """
        ...


class Solver(Protocol):
    """What takes one step of one volume."""

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """Returns what :meth:`Sampler.step` does."""
        ...


Proximal = Callable[[Tensor, Tensor], Tensor]
"""``(z_BCXYZ, data) -> x_BCXYZ``: the volume that is nearest to z and to what was measured."""


class Operator(Protocol):
    """What an instrument does to a volume: a linear map A from volumes in the model range to data of any shape, real or complex.

    Attributes:
        apart: whether A* A couples no voxel with another, so that :meth:`closed` may be asked about some voxels alone.
    """

    apart: bool = False

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """A x; the first axis of the data is B."""
        ...

    def adjoint(self, data: Tensor) -> Tensor:
        """A* d, shaped like a volume, such that Re<A x, d> = <x, A* d> for all x and d (tested for every kind)."""
        ...

    def seen(self, data: Tensor) -> Tensor:
        """The data, with 0 at places of which nothing was measured; all of them unless an operator says otherwise."""
        return data

    def closed(self, gamma: float) -> Proximal | None:
        """Argmin over x of ``|x - z|^2 + gamma |data - A x|^2`` without iterations, or None if there is no closed form.

        Args:
            gamma: positive; infinite for the point nearest to z among those that explain the data, z + A^+ (data - A z).
        """
        return None


@dataclass(frozen=True)
class Measurement:
    """What an instrument gave.

    Attributes:
        operator: what it does to a volume.
        data: what it gave, of one volume (B = 1), on the device that computes; in the units of the model range.
        noise: standard deviation of the white noise in ``data`` (of each part of a complex number); 0 if there is none.
    """

    operator: Operator
    data: Tensor
    noise: float = 0.0


def _drowned(noise_BCXYZ: Tensor, sigma: float) -> Tensor:
    return noise_BCXYZ * sigma


Expected = Callable[[Tensor, Tensor], Tensor]
"""``(y_BCXYZ, sigma_B) -> x0_BCXYZ``: what is expected of a noisy state without a network."""


FlowMap = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x_BCXYZ, sigma_B, to_B) -> x_BCXYZ``: where the probability flow takes noisy volumes, from one noise level to another (0 or more).

Where it takes them from a level to the same one, they are what they were, bit for bit."""


class Covariance(Protocol):
    """How volumes spread around what is expected of them, were they of a Gaussian N(m, S): known without a network.

    Of x0 + sigma z, clean volumes spread with C = (S^-1 + sigma^-2)^-1, whatever was seen; with sigma infinite that is S.
    """

    def times(self, x_BCXYZ: Tensor, sigma: float) -> Tensor:
        """C x: symmetric, and not negative."""
        ...

    def drawn(self, first_BCXYZ: Tensor, second_BCXYZ: Tensor, sigma: float) -> Tensor:
        """A sample of N(0, C), from two independent standard normal noises."""
        ...

    @property
    def directions(self) -> Tensor:
        """Orthonormal volumes [r, C, X, Y, Z] along which volumes spread far more than along others; r may be 0."""
        ...

    def strengths(self, sigma: float) -> tuple[Tensor, float]:
        """Variances [r] that C has along the directions, and the mean variance of a voxel in all the rest."""
        ...


@dataclass(frozen=True)
class Problem:
    """What sampling is to reach, and what a guidance may know of the prior.

    Attributes:
        prior: the prior at the highest noise level: makes a sample of it from standard normal noise [B, C, X, Y, Z] and sigma.
        measurement: what the volume has to agree with; None if there is nothing.
        expected: what is known of a state without a network, be it a volume or the corner of one; None if that is nothing.
        covariance: how whole volumes spread around what is expected of them; None if nothing is known.
        weak: a worse denoiser of the same volumes, for a guidance that says which one (:attr:`Guidance.weak`); None if there is none.
        told: the same for a volume of which something is true (B = 1); None if it is the same whatever is true.
    """

    prior: Callable[[Tensor, float], Tensor] = _drowned
    measurement: Measurement | None = None
    expected: Expected | None = None
    covariance: Covariance | None = None
    weak: Denoiser | None = None
    told: Callable[[Given], Problem] | None = None

    def of(self, given: Given) -> Problem:
        """The problem of a volume of which something is true."""
        return self if self.told is None or given is NOTHING else self.told(given)


PRIOR = Problem()
"""Nothing to agree with, and noise that drowns the data to start from."""


Noises = Callable[[int], Tensor]
"""``noises(k)`` of one step of one volume: its k-th standard normal noise [1, C, X, Y, Z], a fixed function of seed, sample, step and k."""


class Guidance(Protocol):
    """Makes a denoiser of a conditional distribution from one of the prior. Who inherits from this has the defaults.

    Solvers do not know that there is one: each asks what :meth:`guide` returns instead of the denoiser itself, at its own noise level.
    Methods that also move the sample, before a solver takes a step or after, say so in :meth:`solver`.

    Attributes:
        differentiates: whether it takes gradients of the denoiser with respect to the sample: then the driver, and a bank, keep graphs.
        renoises: whether what it returns is drawn rather than expected, so that only a sampler that renoises fits.
        whole: whether it needs whole volumes on their way, rather than the corners that experts of high noise see.
        asks: whether it does nothing where nothing is asked of a volume.
        moves: whether it moves samples to where they explain data, for which the instrument has to be linear in them.
        curved: whether the instrument need not be linear, if its adjoint is that of its derivative at what it saw last.
        weak: the worse denoiser that it has to be brought: ``shared``, or the directory of a run; "" if none.
        weak_mirrored: whether that one is asked about both sides where its run's denoisers are (``mirrored``).
    """

    differentiates: bool = False
    renoises: bool = False
    whole: bool = True
    asks: bool = False
    moves: bool = False
    curved: bool = False
    weak: str = ""
    weak_mirrored: bool = True

    def asks_weak(self, sigma: float) -> bool:
        """Whether it asks ``weak`` at a noise level."""
        return bool(self.weak)

    def enlarges(self, sigma: float) -> float:
        """How many times what a network adds to what is expected without one counts at a noise level, if that is all that changes."""
        return 1.0

    def check(self, problem: Problem) -> None:
        """Looks at a problem before anything is computed.

        Raises:
            UserError: it cannot be had with this guidance.
        """
        return

    def prior(self, problem: Problem, sigma: float, noises: Noises) -> Tensor:
        """What sampling begins with, at ``sigma``; ``noises(0)`` is what it would begin with without guidance."""
        return problem.prior(noises(0), sigma)

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """The denoiser that a solver asks in one step of one volume."""
        return denoise

    def solver(self, sampler: Sampler, problem: Problem, noises: Noises) -> Solver:
        """What takes the step of one volume, with the denoiser of :meth:`guide`: the sampler itself, or what moves the sample around it."""
        return sampler

    def noted(self) -> Mapping[str, float]:
        """Numbers that tell how it went, of all steps so far in this process: by name, shares and means."""
        return {}


class Scan(Protocol):
    """A volume of the training data, of which only parts may be read.

    Attributes:
        shape: voxels along R, A, S.
        about: what a store's manifest says of it; empty for a volume of no store.
    """

    @property
    def shape(self) -> Shape3:
        """Voxels along R, A, S."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """What a store's manifest says of it."""
        ...

    def whole(self) -> Tensor:
        """All voxels, float32 [X, Y, Z] in [-1, 1]."""
        ...

    def slices(self, axis: int, start: int, stop: int) -> Tensor:
        """Slices ``start`` ... ``stop - 1`` along an axis, the others whole; float32 in [-1, 1]."""
        ...

    def part(self, start: Shape3, size: Shape3) -> Tensor:
        """A box of ``size`` voxels that begins at ``start``, float32 in [-1, 1]."""
        ...

    def coarse(self, edge: int) -> Tensor:
        """Means of cubes of ``edge ** 3`` voxels, float32 [X / edge, Y / edge, Z / edge] in [-1, 1]."""
        ...


class Trajectory(Scan, Protocol):
    """A drawn volume of the training data, with the states through which it came."""

    def states(self, start: Shape3, size: Shape3, *, climbed: bool) -> Tensor:
        """Float32 [T, X, Y, Z]: noisy states of a box, highest noise first.

        Args:
            start: first voxel of the box.
            size: its voxels.
            climbed: whether volumes climbed, and the states are those of these voxels and where the last jump of these ends; else they are
                all of the volume's, as means over cubes where voxels are coarser, and the clean volume last.

        Raises:
            UserError: the store keeps none, or they are damaged.
        """
        ...


class Cut(Protocol):
    """What of a scan one training example is."""

    def __call__(self, scan: Scan, seed: int, *key: int | str) -> Examples:
        """One clean piece and what is known beside it (B = 1), a function of the scan, the seed and the key."""
        ...


class Take(Protocol):
    """What there is of a box of a scan."""

    def __call__(self, scan: Scan, start: Shape3, size: Shape3) -> Tensor:
        """[C, X, Y, Z]; C is 1 where that are the voxels themselves."""
        ...


Shape3 = tuple[int, int, int]
"""Voxels along X, Y, Z."""
Shape4 = tuple[int, int, int, int]
"""Sizes of a state of sampling: channels and voxels, (C, X, Y, Z); C is 1 where states are images."""
Axis = Literal["R", "A", "S"]
"""An axis of a RAS+ volume; slices across R are sagittal, across A coronal, across S axial."""
AXES: tuple[Axis, Axis, Axis] = ("R", "A", "S")
"""Names of the array axes of a RAS+ volume."""


class Pulse(Protocol):
    """Whoever wants to know that this rank is alive."""

    def beat(self) -> None:
        """Hears that a step, or something else that takes time, has ended, or that this rank waits for others as it should."""
        ...
