"""What a solver asks in place of the bare denoiser, so that volumes agree with something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from volgen.core.config import Config


class GuidanceConfig(Config):
    """Base of the configuration of a guidance.

    Attributes:
        goes_with: configuration of the solver that its paper takes, with which it is compared with others; the run's own if empty.
    """

    goes_with: ClassVar[Mapping[str, Any]] = {}
