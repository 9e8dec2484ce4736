"""Latent diffusion (Rombach et al. 2022): an autoencoder is trained first, and then denoisers of what it makes of volumes.

Latents are volumes of fewer voxels (:mod:`volgen.models.latents`), so network, preconditioner, bank, schedule and solvers are those of any
run. What the decoder loses no denoiser brings back: how well people who were not trained on are reconstructed is measured, and denoisers
are trained only if that is good enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from volgen.core.config import MAY_CHANGE
from volgen.core.errors import UserError
from volgen.core.given import Examples
from volgen.core.protocols import Denoiser, Sampler, Shape3
from volgen.core.rng import seeded
from volgen.core.span import SigmaSpan
from volgen.experts.plan import Phase
from volgen.methods import Fitted, Sections, Weights
from volgen.methods._bank import Bank, Trained
from volgen.models.autoencoder import CodecConfig
from volgen.models.denoiser import Network, Preconditioner
from volgen.models.latents import LatentCodec, Latents, latent_grid
from volgen.models.space import Domain
from volgen.training.objective import Draws, Objective
from volgen.training.optimiser import OptimiserConfig

AUTOENCODER = "autoencoder"
"""Name of the phase that comes first."""
PEAK = 2.0
"""Range of intensities in the model's units, from -1 to 1."""
REMEMBERED = 2**28
"""Bytes of latents that a rank keeps: 256 MiB."""


class Config(CodecConfig):
    """A bank of denoisers of latents, behind an autoencoder that is trained first (MONAI's, with a Kullback-Leibler term)."""

    kind: Literal["latent"] = "latent"
    patients_apart: ClassVar[bool] = True
    first: ClassVar[str] = "an autoencoder"
    """What is trained with the cohort before anything else, whatever protects people in the training of denoisers."""
    latent_channels: Literal[1, 2, 4, 8] = 4
    """Channels of latents, which lie side by side as voxels: 4 are two along Y and two along Z, 8 two along each axis."""
    steps: PositiveInt = 2000
    """Steps of its training, a fixed count; the weights that reconstruct validation people best are kept."""
    optimiser: OptimiserConfig | None = None
    """Its step sizes; those of the recipe if None."""
    divergence: NonNegativeFloat = 1e-4
    """Weight of the Kullback-Leibler divergence of latents from the standard normal, in nats for each voxel, beside the mean absolute
    error."""
    detail: NonNegativeFloat = 1.0
    """Weight of the mean absolute error of the finest Haar coefficients beside that of voxels."""
    gate: Annotated[NonNegativeFloat, MAY_CHANGE] = 25.0
    """Denoisers are trained if volumes of validation people are reconstructed at this peak signal-to-noise ratio or a better one, dB."""
    tile: Annotated[NonNegativeInt, MAY_CHANGE] = 64
    """Edge of the pieces of a latent that are decoded at once, in latent positions; 0 for all of it."""
    overlap: Annotated[float, MAY_CHANGE] = Field(default=0.25, ge=0.0, lt=1.0)
    """Share of a piece's edge that its neighbour covers too."""

    def build(self, recipe: Sections) -> LatentDiffusion:
        """The method of a recipe."""
        return LatentDiffusion(recipe, self)


@dataclass(frozen=True)
class LatentDiffusion(Bank):
    """The :class:`~volgen.methods.Method` of latent diffusion.

    Attributes:
        config: sizes.
    """

    config: Config

    def check(self) -> None:
        """Makes sure that latents of whole volumes are denoised.

        Raises:
            ValueError: they are not.
        """
        recipe = self.recipe
        if getattr(recipe.objective, "jumps", False):
            raise ValueError(f"objective.kind '{recipe.objective.kind}' trains networks that jump: use denoising")
        if recipe.known or recipe.model.level or recipe.piece != self.grid:
            raise ValueError("method.kind 'latent' is of whole volumes without places: use level 0, view and assembly whole")
        if recipe.experts.groups > 1:
            raise ValueError(
                f"experts.groups is {recipe.experts.groups}: method.kind 'latent' trains one network after another. Set it to 1"
            )

    @property
    def grid(self) -> Shape3:
        """Voxels of a latent, channels side by side.

        Raises:
            ValueError: edges of volumes cannot be halved so often.
        """
        shape, multiple = self.recipe.data.grid, 2**self.config.halvings
        if any(edge % multiple for edge in shape):
            raise ValueError(f"method.kind 'latent' halves edges, and volumes are {list(shape)}: use multiples of {multiple}")
        return latent_grid(shape, self.config.halvings, self.config.latent_channels)

    @property
    def example(self) -> Shape3:
        """Voxels of a volume, which is encoded when it is needed."""
        return self.recipe.data.grid

    @property
    def needs(self) -> tuple[str, ...]:
        """The autoencoder comes first."""
        return (AUTOENCODER,)

    def phases(self) -> list[Phase]:
        """The autoencoder, and then the bank."""
        bank = super().phases()
        whole = SigmaSpan(min(phase.span.low for phase in bank), max(phase.span.high for phase in bank))
        first = Phase(AUTOENCODER, None, whole, (), None, max_steps=self.config.steps)
        return [first, *(replace(phase, needs=self.needs) for phase in bank)]

    def network(self, phase: Phase, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The autoencoder, all of which is trained; or the network of an expert with the adapter attached."""
        if phase.points:
            return super().network(phase, weights)
        with seeded(self.recipe.seed, "weights", phase.name):
            codec = self._codec(self.recipe.engine.activation_checkpointing)
        if weights is not None:
            codec.load_state_dict(weights)
        return codec

    def released(self, phase: Phase) -> nn.Module:
        """The autoencoder, or the network of an expert without adapter."""
        return super().released(phase) if phase.points else self._codec()

    def settled(
        self, phase: Phase, state: Mapping[str, Tensor], volumes: Callable[[], Iterable[Tensor]], device: torch.device
    ) -> dict[str, Tensor] | None:
        """The autoencoder with the scale of its latents, measured over training people."""
        if phase.points:
            return None
        codec = self._codec()
        codec.load_state_dict(state)
        codec.to(device).eval().measure(volumes())
        return {name: tensor.cpu() for name, tensor in codec.state_dict().items()}

    def space(self, weights: Weights | None, device: torch.device) -> Domain:
        """What the autoencoder makes of volumes.

        Raises:
            ValueError: its latents have no scale.
        """
        if weights is None:
            with device:
                return Latents(self._codec())
        codec = self._codec()
        codec.load_state_dict(weights[AUTOENCODER])
        latents = Latents(codec.to(device), self.config.tile, self.config.overlap, REMEMBERED)
        latents.check()
        return latents

    def passes(self, phase: Phase, loss: float | None) -> None:
        """Makes sure that the autoencoder reconstructs people whom it was not trained on.

        Raises:
            UserError: it does not.
        """
        if loss is None or (ratio := decibels(loss)) >= self.config.gate:
            return
        found = f"reconstructs people it was not trained on at {ratio:.1f} dB, and what it loses no denoiser brings back"
        do = "under another `name`, raise method.steps, method.channels or method.latent_channels; or lower method.gate and go on"
        raise UserError(phase.label, found, f"at least {self.config.gate:g} dB (method.gate)", do)

    def objective(self, phase: Phase, fitted: Fitted, sigma: Callable[[float], float] | None = None) -> Objective:
        """What encoding loses and costs; or the loss of the recipe's objective of latents."""
        if phase.points:
            return _OfLatents(self.trained_by(Trained(self.recipe, phase, fitted, sigma)), fitted.space)
        return _Reconstruction(self.config.latent(self.recipe.data.grid), self.config.divergence, self.config.detail)

    def denoiser(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The network inside the preconditioner: a denoiser of latents."""
        return self.recipe.model.denoiser(self.forward(network), preconditioner)

    def corner(self, network: nn.Module, preconditioner: Preconditioner) -> Denoiser:
        """The same: latents have no corners."""
        return self.denoiser(network, preconditioner)

    def fits(self, sampler: Sampler, grid: Sequence[float], *, guided: bool = False, voxels: bool = False) -> None:
        """Makes sure that no voxels are asked for on the way.

        Raises:
            UserError: they are.
        """
        if voxels:
            found = "of this run are of latents, and what is compared with them is made of voxels"
            raise UserError("denoisers", found, "a run of volumes (method.kind diffusion)")

    def _codec(self, checkpointing: bool = False) -> LatentCodec:
        return LatentCodec(self.config, checkpointing)


def decibels(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error, as a share of the squared range."""
    return -10.0 * math.log10(error) if error > 0.0 else math.inf


@dataclass(frozen=True)
class _Reconstruction:
    """An :class:`~volgen.training.objective.Objective`: what the autoencoder is trained for, and what it is judged by.

    Attributes:
        latent: edges of what is drawn for each latent.
        divergence: weight of the Kullback-Leibler divergence.
        detail: weight of the finest Haar coefficients.
    """

    latent: Sequence[int]
    divergence: float
    detail: float

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        """The loss [B]; without gradients, the mean squared error from the latent's mean, as a share of the squared range."""
        x_BCXYZ = examples.x_BCXYZ
        noise_B = x_BCXYZ.new_zeros(len(x_BCXYZ))
        if not torch.is_grad_enabled():
            error_BCXYZ = network(x_BCXYZ, noise_B).float() - x_BCXYZ
            return error_BCXYZ.square().mean(dim=(1, 2, 3, 4)) / PEAK**2
        terms_B3 = network(x_BCXYZ, noise_B, posterior=draws.normal(self.latent, "posterior").to(x_BCXYZ.device))
        return terms_B3[:, 0] + self.detail * terms_B3[:, 1] + self.divergence * terms_B3[:, 2]


@dataclass(frozen=True)
class _OfLatents:
    """An :class:`~volgen.training.objective.Objective` of what is made of volumes.

    Attributes:
        objective: the loss of that.
        space: makes it.
    """

    objective: Objective
    space: Domain

    def loss(self, network: Network, examples: Examples, draws: Draws, ids: Sequence[str] = ()) -> Tensor:
        """The loss [B]."""
        return self.objective.loss(network, Examples(self.space.encode(examples.x_BCXYZ), examples.given), draws, ids)
