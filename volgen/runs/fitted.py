"""What a run has fitted to its cohort before training, on disk: the preconditioner, and what its assembly draws from."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise

from volgen.core.errors import UserError
from volgen.core.files import atomic_path, check_digest, open_plain, read_json, sha256, write_json
from volgen.core.limits import HEADER_BYTES, SMALL_JSON_BYTES
from volgen.core.protocols import Shape3
from volgen.core.run_files import ASSEMBLY, CHECKSUMS, FOR_TRAINING, PRECONDITIONER
from volgen.models.assembly import Assembly, AssemblyConfig
from volgen.models.denoiser import Preconditioner, PreconditionerConfig

MANY = 10_000
"""People, of which a fit keeps as much as of any larger number."""
HEADER = 2**20
"""Bytes: more than the headers of a few tensors take."""
VOLUMES = 64


def write(preconditioner: Preconditioner, assembly: Assembly, root: Path) -> None:
    """Writes all files and their checksums; the one for training comes last, so where it is, all are."""
    checksums = {}
    if state := assembly.state():
        with atomic_path(root / ASSEMBLY) as temporary:
            temporary.write_bytes(serialise(state))
        checksums[ASSEMBLY] = sha256(root / ASSEMBLY)
    with atomic_path(root / PRECONDITIONER) as temporary:
        temporary.write_bytes(serialise(preconditioner.state()))
    with atomic_path(root / FOR_TRAINING) as temporary:
        temporary.write_bytes(serialise(preconditioner.state(training=True)))
        checksums |= {PRECONDITIONER: sha256(root / PRECONDITIONER), FOR_TRAINING: sha256(temporary)}
        write_json(root / CHECKSUMS, {"sha256": checksums})


def write_compact(preconditioner: Preconditioner, root: Path) -> None:
    """Replaces the preconditioner of a finished run, and its checksum, by a smaller one."""
    with atomic_path(root / PRECONDITIONER) as temporary:
        temporary.write_bytes(serialise(preconditioner.compact()))
    if (root / CHECKSUMS).exists():  # runs of 0.1.0 have none
        listed = {**_checksums(root), PRECONDITIONER: sha256(root / PRECONDITIONER)}
        write_json(root / CHECKSUMS, {"sha256": {name: digest for name, digest in listed.items() if name != FOR_TRAINING}})


def preconditioner_bytes(config: PreconditionerConfig, shape: Shape3) -> int:
    """Largest file that the state of a preconditioner can have, whatever it was fitted to, without the folds for training."""
    with torch.device("meta"):
        state = config.blank(shape, MANY).state()
    return HEADER + sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def assembly_bytes(shape: Shape3) -> int:
    """Largest file that what an assembly draws from can have: some dozens of volumes."""
    return HEADER + VOLUMES * 4 * math.prod(shape)


def tensor_bytes(path: Path) -> int:
    """Bytes of all tensors in a safetensors file, by its size and the length of its header.

    Raises:
        OSError: it cannot be read, or its header is longer than it.
    """
    with open_plain(path) as file:
        header = int.from_bytes(file.read(8), "little")
        found = os.fstat(file.fileno()).st_size - 8 - header
    if header > HEADER_BYTES or found < 0:
        raise OSError(errno.EINVAL, f"its header would have {header} bytes", str(path))
    return found


def restore(config: PreconditionerConfig, path: Path, do: str) -> Preconditioner:
    """Reads a preconditioner; ``do`` is what a user can do about a damaged file.

    Raises:
        UserError: the file cannot be read, or is not the state of this kind.
    """
    try:
        return config.restore(load_file(path))
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        found = f"cannot be restored ({' '.join(str(error).split())})"
        raise UserError(str(path), found, f"the state of a '{config.kind}' preconditioner", do) from None


def restore_assembly(config: AssemblyConfig, root: Path, do: str) -> Assembly:
    """Reads what an assembly draws from; ``do`` is what a user can do about a damaged file.

    Raises:
        UserError: the file is missing, cannot be read, was changed, or is not the state of this kind.
    """
    path = root / ASSEMBLY
    try:
        state = load_file(path) if path.is_file() else {}
        restored = config.restore(state)
    except (SafetensorError, KeyError, OSError) as error:
        found = f"cannot be restored ({' '.join(str(error).split())})" if path.is_file() else "there is no such file"
        raise UserError(str(path), found, f"the state of a '{config.kind}' assembly", do) from None
    if state:
        check_unchanged(path, do)
    return restored


def check_unchanged(path: Path, do: str) -> None:
    """Compares a file with its checksum, in runs that have them; a restored one, so that other damage has its own message.

    Raises:
        UserError: the file was changed after the fit.
    """
    checksums = path.parent / CHECKSUMS
    if not checksums.exists():
        return
    check_digest(path, str(_checksums(path.parent).get(path.name)), CHECKSUMS, what="a file of the fit", do=do)


def check_all(root: Path, do: str) -> None:
    """Compares all files of a fit with their checksums, so that no training ends with a run that cannot be sampled from.

    Raises:
        UserError: one was changed or is not there, or the checksums are not.
    """
    if not (root / CHECKSUMS).exists():
        raise UserError(str(root / CHECKSUMS), "there is no such file", "the checksums of the fit", do)
    for name in {PRECONDITIONER: "", FOR_TRAINING: "", **_checksums(root)}:
        check_unchanged(root / name, do)


def _checksums(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(
        root / CHECKSUMS, "the checksums of a run's preconditioner", _has_checksums, limit=SMALL_JSON_BYTES
    )["sha256"]
    return content


def _has_checksums(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("sha256"), dict)
