"""What of a volume goes through an expert's network at once, and how its estimates become one of the whole volume.

A view knows nothing of levels: what it calls a volume is one of the voxels of the expert's level (:mod:`volgen.models.model`).
"""

from __future__ import annotations

from typing import Protocol

from volgen.core.protocols import Cut, Denoiser, Shape3, Take, Weighted
from volgen.models.denoiser import Network, NetworkConfig, Preconditioner, PreconditionerConfig


class ViewConfig(Protocol):
    """What every file in ``volgen/models/views`` offers as ``Config``."""

    kind: str

    @property
    def known(self) -> int:
        """Channels of what is known beside what an expert sees, such as its place; part of an example and of the network's input."""
        ...

    @property
    def places(self) -> bool:
        """Whether the last of these channels say where voxels are (:mod:`volgen.models.place`)."""
        ...

    @property
    def anywhere(self) -> bool:
        """Whether it can be had of any piece of a volume, so that assemblies may make pieces."""
        ...

    def inputs(self, preconditioner: PreconditionerConfig, network: NetworkConfig) -> int:
        """Input channels of the network, but those that are known.

        Raises:
            ValueError: the view cannot be had with this preconditioner, or with this network.
        """
        ...

    def piece(self, shape: Shape3, aligned: Shape3) -> Shape3:
        """Voxels that go through the network at once, of a volume of ``shape``: their memory is what planning counts.

        Args:
            shape: voxels of the volume.
            aligned: pieces of it may begin at multiples of these.

        Raises:
            ValueError: volumes of this shape cannot be seen like this.
        """
        ...

    def examples(self, shape: Shape3) -> int:
        """Different examples of a volume that take about its memory: as many of each are validated on."""
        ...

    def cut(self, cut: Cut, aligned: Shape3, take: Take | None = None) -> Cut:
        """What of a scan an expert is trained on: :meth:`piece` of it, with what is known beside that as channels.

        Args:
            cut: that of the run's assembly; of an assembly of whole volumes it makes the volume.
            aligned: see :meth:`piece`.
            take: what there is of a box of the volume, if examples are of something else than its voxels: the states of a trajectory, say.
        """
        ...

    def of_examples(self, network: Network, preconditioner: Preconditioner) -> Weighted:
        """The denoiser of such examples that a network makes while it is trained.

        Args:
            network: being trained, or to be judged.
            preconditioner: that of whole volumes.
        """
        ...

    def denoiser(self, network: Network, preconditioner: Preconditioner, made_of: NetworkConfig) -> Denoiser:
        """A denoiser of whole volumes.

        Args:
            network: trained.
            preconditioner: that of whole volumes.
            made_of: what the network is.
        """
        ...
