"""Provenance: every directory that a command writes holds a ``manifest.json``, with the SHA-256 of the files beside it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import volgen
from volgen.core.errors import UserError
from volgen.core.files import LARGEST_JSON, sha256, write_json
from volgen.core.seal import read_sealed, sealed

NAME = "manifest.json"
FILES = "files"
"""Key of the checksums, ``{"relative/path": "<SHA-256>"}``. Manifests of 0.1.0 have none."""
NAMED = 5
"""Files that a message names."""


def files_in(directory: Path) -> Iterator[str]:
    """Relative paths, with ``/``, of what a manifest answers for: all but itself, hidden files (locks, what is being written) and links."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        hidden = any(part.startswith(".") and part != ".bidsignore" for part in name.parts)
        if not hidden and path.is_file() and not path.is_symlink() and name.as_posix() != NAME:
            yield name.as_posix()


def checksums(directory: Path, names: Iterable[str] | None = None, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of files of a directory by relative path.

    Args:
        directory: where the manifest is.
        names: relative paths; all of :func:`files_in` if None.
        known: checksums of files that are not read again: those of when they were written, so that later damage is not signed for.
    """
    names = files_in(directory) if names is None else names
    return {name: (known or {}).get(name) or sha256(directory / name) for name in names}


@dataclass(frozen=True)
class Differences:
    """How a directory differs from its manifest, each as relative paths.

    Attributes:
        missing: files that are not there.
        changed: files with another SHA-256.
        other: what is there in place of a file: a folder, a link, a pipe.
        more: files that the manifest does not know.
    """

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.changed or self.other or self.more)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "changed": self.changed, "not regular files": self.other, "not in the manifest": self.more}
        more, be = " and more", {1: "is"}
        return "; ".join(f"{', '.join(names[:NAMED])}{more * (len(names) > NAMED)} {be.get(len(names), 'are')} {kind}"
                         for kind, names in kinds.items() if names)  # fmt: skip


def verify(directory: Path, content: Mapping[str, Any] | None = None, names: Collection[str] | None = None) -> Differences:
    """Compares a directory with the checksums of its manifest. One of volgen 0.1.0, which has none, agrees with anything.

    Args:
        directory: where ``manifest.json`` is.
        content: what the manifest says, if it has been read already.
        names: relative paths to look at, of those that the manifest lists; without it all of them, and whether there are more files.

    Raises:
        UserError: the manifest cannot be read or was changed, or its checksums have another form.
    """
    expected = "a manifest that volgen wrote"
    listed = (read(directory, expected) if content is None else content).get(FILES)
    if listed is None:
        return Differences()
    if not isinstance(listed, dict) or not all(isinstance(digest, str) and _inside(name) for name, digest in listed.items()):
        raise UserError(str(directory / NAME), f"its '{FILES}' have another form", expected)
    missing, changed, other = [], [], []
    for name, digest in listed.items():
        if names is not None and name not in names:
            continue
        path = directory / name
        if any((directory / part).is_symlink() for part in (Path(name), *Path(name).parents)):
            other.append(name)
        elif not path.exists():
            missing.append(name)
        elif not path.is_file():
            other.append(name)
        elif sha256(path) != digest:
            changed.append(name)
    more = [] if names is not None else [name for name in files_in(directory) if name not in listed]
    return Differences(tuple(missing), tuple(changed), tuple(other), tuple(more))


def _inside(name: object) -> bool:
    """Whether this is a relative path that does not lead out of its folder."""
    return isinstance(name, str) and name != "" and not name.startswith("/") and ".." not in Path(name).parts and "\0" not in name


def read(directory: Path, what: str, do: str = "restore it from a copy", *, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """The manifest of a directory, which is as it was written.

    Args:
        directory: where ``manifest.json`` is.
        what: what that is, for messages.
        do: what a user can do about a damaged one.
        limit: largest size in bytes.

    Raises:
        UserError: it is missing, of another form, or was changed. One of volgen 0.1.0 has no seal to tell that by.
    """
    return read_sealed(directory / NAME, what, do, limit=limit, needed=lambda content: FILES in content)


def git_revision() -> str | None:
    """Revision of the checkout that volgen runs from ("-dirty" if it was changed), or None for an installed package."""
    folder = Path(volgen.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@dataclass
class Provenance:
    """What a command knows of itself; :meth:`write` adds time and memory.

    Attributes:
        command: its name; a manifest has it under ``stage``.
        config: resolved configuration or options, JSON-able.
        inputs: fingerprints of what was read.
        seed: the seed, or None where nothing was drawn.
        measured: whether wall time and peak memory are written. Not in a folder that may be released: they follow from what was read, such
            as the size of one person's scan.
    """

    command: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    seed: int | None = None
    measured: bool = True
    _started: float = field(default_factory=time.monotonic)

    def write(self, directory: Path, **more: Any) -> dict[str, Any]:
        """Writes ``manifest.json`` atomically and returns its content; ``more`` adds keys of the command's own, and ``files``."""
        content: dict[str, Any] = {
            "stage": self.command,
            "volgen_version": volgen.__version__,
            "git_revision": git_revision(),
            "config": dict(self.config),
            "inputs": dict(self.inputs),
            "seed": self.seed,
            "axis_order": "RAS+ (x to the right, y to the front, z to the top)",
            "units": {"space": "mm", "intensity": "arbitrary"},
            **self._measures(),
            **more,
        }
        content = sealed(content)
        write_json(directory / NAME, content)
        return content

    def _measures(self) -> dict[str, Any]:
        if not self.measured:
            return {}
        return {"wall_seconds": round(time.monotonic() - self._started, 3), "peak_memory_bytes": peak_memory_bytes()}
