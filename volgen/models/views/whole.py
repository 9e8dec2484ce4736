"""All of the volume goes through the network at once: nothing to cut, nothing to put together."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.given import NOTHING, Examples, Given
from volgen.core.protocols import Cut, Denoiser, Scan, Shape3, Take, Weighted
from volgen.models.denoiser import Network, NetworkConfig, PreconditionedDenoiser, Preconditioner, PreconditionerConfig
from volgen.models.place import PLACES, coordinates


class Config(BaseConfig):
    """A volume of the level goes through the network as a whole, in training and in sampling."""

    kind: Literal["whole"] = "whole"

    place: bool = False
    """Whether the network is told where each voxel is, by three channels of coordinates."""

    @property
    def known(self) -> int:
        """Where voxels are, if that is told; nothing else is known beside a whole volume."""
        return PLACES * self.place

    @property
    def places(self) -> bool:
        """Whether it is told."""
        return self.place

    @property
    def anywhere(self) -> bool:
        """Whether any piece of a volume can be denoised: it goes through the network like a volume, unless that is told its place."""
        return not self.place

    def inputs(self, preconditioner: PreconditionerConfig, network: NetworkConfig) -> int:
        """What the preconditioner makes."""
        return preconditioner.inputs

    def piece(self, shape: Shape3, aligned: Shape3) -> Shape3:
        """The volume's shape."""
        return shape

    def examples(self, shape: Shape3) -> int:
        """There is one whole."""
        return 1

    def cut(self, cut: Cut, aligned: Shape3, take: Take | None = None) -> Cut:
        """What the assembly makes, as it is; or all that is taken."""
        made = cut if take is None else _all(take)
        if not self.place:
            return made

        def placed(scan: Scan, seed: int, *key: int | str) -> Examples:
            example = made(scan, seed, *key)
            return Examples(example.x_BCXYZ, example.given | _where(example.x_BCXYZ))

        return placed

    def of_examples(self, network: Network, preconditioner: Preconditioner) -> Weighted:
        """The network behind the preconditioner of whole volumes."""
        return PreconditionedDenoiser(network, preconditioner)

    def denoiser(self, network: Network, preconditioner: Preconditioner, made_of: NetworkConfig) -> Denoiser:
        """The network behind its preconditioner."""
        inner = PreconditionedDenoiser(network, preconditioner)
        if not self.place:
            return inner

        def placed(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            return inner(y_BCXYZ, sigma_B, given | _where(y_BCXYZ))

        return placed


def _all(take: Take) -> Cut:
    """All that there is of a volume."""

    def taken(scan: Scan, seed: int, *key: int | str) -> Examples:
        return Examples(take(scan, (0, 0, 0), scan.shape)[None])

    return taken


def _where(x_BCXYZ: Tensor) -> Given:
    x, y, z = x_BCXYZ.shape[2:]
    return Given(coordinates((x, y, z), (0, 0, 0), (x, y, z)).to(x_BCXYZ.device).expand(len(x_BCXYZ), -1, -1, -1, -1))
