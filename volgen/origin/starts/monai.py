"""Networks begin from weights that MONAI's ``DiffusionModelUNet`` and ``AutoencoderKL`` were trained to elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from volgen.core import manifest
from volgen.core.config import MAY_CHANGE
from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.limits import MANIFEST_BYTES
from volgen.core.run_files import MANIFEST
from volgen.data.store import Store
from volgen.experts.plan import Phase
from volgen.images.geometry import Geometry
from volgen.origin.outside import weights_of
from volgen.origin.start import Facts, Open, Recipe

PART = "net."
"""Where MONAI's network is inside ours."""


class Config(BaseConfig):
    """Experts begin from weights of MONAI's diffusion U-Net (``network.kind: unet3d``), and latents from those of its autoencoder."""

    kind: Literal["monai"] = "monai"
    denoiser: Annotated[str | None, MAY_CHANGE] = Field(default=None, min_length=1)
    """File of weights of a ``DiffusionModelUNet``: safetensors, or a state dict of torch. Experts begin as without a start if None."""
    autoencoder: Annotated[str | None, MAY_CHANGE] = Field(default=None, min_length=1)
    """File of weights of an ``AutoencoderKL``, for ``method.kind: latent``, which trains it on for ``method.steps``."""
    not_compared: bool = False
    """Whether a private run may begin from these, although nobody can look for people who are in both cohorts."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.denoiser or self.autoencoder):
            raise ValueError("neither denoiser nor autoencoder is given: name a file, or leave start out")
        return self

    @property
    def warm(self) -> bool:
        """Whether networks begin from trained weights: they do."""
        return True

    @property
    def brings_fit(self) -> bool:
        """Whether what is fitted comes with it: it is fitted to the cohort."""
        return False

    @property
    def places(self) -> list[str]:
        """Where the files are."""
        return [path for path in (self.denoiser, self.autoencoder) if path]

    def check(self, recipe: Recipe) -> None:
        """Networks have to be MONAI's.

        Raises:
            ValueError: they are not, or a private run begins from nobody knows whom.
        """
        if self.denoiser and not getattr(recipe.network, "of_monai", False):
            raise ValueError(f"start.denoiser is for MONAI's network, but network.kind is '{recipe.network.kind}': use unet3d")
        if self.autoencoder and not recipe.build().needs:
            raise ValueError(f"start.autoencoder is for latents, but method.kind is '{recipe.method.kind}': use latent, or leave it out")
        if not self.denoiser and recipe.adapter.needs_trained:
            raise ValueError(f"adapter.kind '{recipe.adapter.kind}' changes trained weights: name them in start.denoiser")
        if not recipe.privacy.looks and not self.not_compared:
            found = "nobody can say whether people of this cohort are among those whom start's weights were trained on"
            raise ValueError(f"{found}: if you know that none is, set start.not_compared true")

    def keeps(self, points: Sequence[float]) -> bool:
        """Whether a network is taken over as it is: all are trained."""
        return False

    def told(self, recipe: Recipe) -> str:
        """A few words on where weights come from, for a table of sizes."""
        return "weights of MONAI's networks"

    def assumptions(self) -> list[str]:
        """Nobody is known to whoever made the weights."""
        return ["people: none of the cohort is among those whom start's weights were trained on"]

    def caveat(self) -> str:
        """Whoever made the weights had people of their own."""
        return "; and the person is not among those whom the weights that it began from were trained on: no budget here counts those"

    def build(self, recipe: Recipe, store: Store, open_run: Open) -> FromMonai:
        """A beginning from the files.

        Raises:
            UserError: one of them cannot be read, or has other weights.
        """
        return FromMonai(self, recipe)


class FromMonai:
    """A :class:`~volgen.origin.start.Start` from weights of MONAI's networks.

    Args:
        config: which files.
        recipe: configuration of the run that begins.

    Raises:
        UserError: a file cannot be read, or has other weights.
    """

    def __init__(self, config: Config, recipe: Recipe) -> None:
        self._config, self._recipe = config, recipe
        named = {"denoiser": config.denoiser, "autoencoder": config.autoencoder}
        files = {name: Path(path) for name, path in named.items() if path}
        for name, path in files.items():
            if not path.is_file():
                raise UserError(f"start.{name}", f"there is no file {path}", "a file of weights")
        # Whatever is wrong is said before anything is written; phases of one model have one network.
        for phase in {(phase.model, bool(phase.points)): phase for phase in recipe.phases()}.values():
            self.weights(phase)
        self._inputs: Facts = {"outside": {name: sha256(path) for name, path in files.items()}}

    @property
    def inputs(self) -> Facts:
        """SHA-256 of the files."""
        return self._inputs

    @property
    def assumed(self) -> Facts:
        """Where weights come from, and that these know nobody of the cohort."""
        files = ", ".join(f"{name} {digest}" for name, digest in self._inputs["outside"].items())
        return {"outside": f"training began from weights that were made elsewhere ({files}); {self._config.assumptions()[0]}"}

    def check(self, geometry: Geometry) -> None:
        """Any frame will do."""

    def check_same(self, directory: Path) -> None:
        """Refuses other files than a run began from."""
        if not (directory / MANIFEST).exists():
            return
        before = manifest.read(directory, "the manifest of a run", limit=MANIFEST_BYTES).get("inputs", {}).get("outside")
        if before != self._inputs["outside"]:
            raise UserError(
                "start", f"names other weights than {directory} began from", "the same files", "give the new run another `name`"
            )

    def fit(self) -> None:
        """Everything is fitted to the cohort."""
        return

    def weights(self, phase: Phase) -> dict[str, Tensor] | None:
        """Those of the file of its kind; None if there is no such file.

        Raises:
            UserError: the file has other weights.
        """
        name, path = ("denoiser", self._config.denoiser) if phase.points else ("autoencoder", self._config.autoencoder)
        if path is None:
            return None
        with torch.device("meta"):
            network = self._recipe.of(phase).build().released(phase)
        found = weights_of(f"start.{name} {path}", Path(path), network, PART)
        if len(found) == len(network.state_dict()):
            return found
        # What is ours beside MONAI's network is as in a new one: the scale of latents is measured when training has ended.
        return {**self._recipe.of(phase).build().released(phase).state_dict(), **found}

    def kept(self, phase: Phase) -> None:
        """Everything is trained."""
        return
