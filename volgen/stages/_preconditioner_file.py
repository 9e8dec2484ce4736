"""The fitted preconditioner of a run on disk: training writes it, training and sampling read it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from volgen.core.errors import UserError
from volgen.models.denoiser import Preconditioner, PreconditionerConfig

PRECONDITIONER = "preconditioner.safetensors"
FOR_TRAINING = "preconditioner_training.safetensors"
"""The same with what leaves people out, which could give away single ones: gone when the run is finished."""


def restore(config: PreconditionerConfig, path: Path, do: str) -> Preconditioner:
    """Reads a preconditioner; ``do`` is what a user can do about a damaged file.

    Raises:
        UserError: the file cannot be read, or is not the state of this kind.
    """
    try:
        return config.restore(load_file(path))
    except (SafetensorError, KeyError, OSError) as error:
        found = f"cannot be restored ({' '.join(str(error).split())})"
        raise UserError(str(path), found, f"the state of a '{config.kind}' preconditioner", do) from None
