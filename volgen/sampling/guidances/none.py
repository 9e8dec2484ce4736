"""No guidance: samples of the prior."""

from __future__ import annotations

from typing import Literal

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser, Guidance, Noises, Problem


class Unguided(Guidance):
    """The denoiser as it is."""

    whole = False

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """The denoiser as it is."""
        return denoise


UNGUIDED = Unguided()


class Config(BaseConfig):
    """The denoiser as it is; the default."""

    kind: Literal["none"] = "none"

    def build(self) -> Unguided:
        """Makes the guidance."""
        return UNGUIDED
