"""The fitted preconditioner of a run on disk: training writes it, training and sampling read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from volgen.core.errors import UserError
from volgen.core.files import atomic_path, read_json, sha256, write_json
from volgen.models.denoiser import Preconditioner, PreconditionerConfig

PRECONDITIONER = "preconditioner.safetensors"
FOR_TRAINING = "preconditioner_training.safetensors"
"""The same with what leaves people out, which could give away single ones: gone when the run is finished."""
CHECKSUMS = "preconditioner.json"
"""``{"sha256": {"<file>": "<hexadecimal>"}}``: a number that was changed to another finite one shows nowhere else."""


def write(preconditioner: Preconditioner, root: Path) -> None:
    """Writes both files and their checksums; the one for training comes last, so where it is, all are."""
    with atomic_path(root / PRECONDITIONER) as temporary:
        save_file(preconditioner.state(), temporary)
    with atomic_path(root / FOR_TRAINING) as temporary:
        save_file(preconditioner.state(training=True), temporary)
        write_json(root / CHECKSUMS, {"sha256": {PRECONDITIONER: sha256(root / PRECONDITIONER), FOR_TRAINING: sha256(temporary)}})


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


def check_unchanged(path: Path, do: str) -> None:
    """Compares a file with its checksum, in runs that have them; a restored one, so that other damage has its own message.

    Raises:
        UserError: the file was changed after the fit.
    """
    checksums = path.parent / CHECKSUMS
    if not checksums.exists():
        return
    expected = str(read_json(checksums, "the checksums of a run's preconditioner", _has_checksums)["sha256"].get(path.name))
    found = sha256(path)
    if found != expected:
        raise UserError(str(path), f"has SHA-256 {found[:12]}...", f"{expected[:12]}..., as {CHECKSUMS} says: it was changed", do)


def _has_checksums(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("sha256"), dict)
