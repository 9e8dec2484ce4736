"""Which scans a source holds, and whose they are: from file names alone, never from headers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath

from volgen.core.errors import UserError
from volgen.data.nifti import is_image, stem

_SUBJECT = re.compile(r"(?:^|[_/])(sub-[A-Za-z0-9]+)")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Found:
    """One scan.

    Attributes:
        id: unique in the source, safe as a folder name, such as ``sub-01_ses-1_run-2``.
        patient: whose scan it is, such as ``sub-01``; without a BIDS name every file is a person of its own, or, where file names
            repeat (``<subject>/mri/T1.mgz``), every folder that tells them apart.
        path: the file.
        relative: the file's path inside the source, for messages and manifests.
    """

    id: str
    patient: str
    path: Path
    relative: str


def discover(source: Path, suffix: str = "T1w") -> list[Found]:
    """Scans of a file, a folder or a BIDS tree (raw or derivative), sorted by path.

    A folder with ``sub-*`` folders is a BIDS tree: ``sub-*/[ses-*/]anat/*_<suffix>.*`` are taken, and ``derivatives/`` inside it is not
    (a derivative dataset is a source of its own). Any other folder gives every image file in and below it.

    Links that lead nowhere are among the scans, so that whoever reads them can say so.

    Raises:
        UserError: no such path, or no image in it.
    """
    if not source.exists():
        raise UserError(str(source), "there is no such file or folder", "an image, a folder of images or a BIDS tree")
    if source.is_file():
        if not is_image(source):
            raise UserError(str(source), "is not an image file", "a name ending in .nii, .nii.gz, .mgh or .mgz")
        return _name([source], source.parent, suffix)
    people = sorted(folder for folder in source.glob("sub-*") if folder.is_dir())
    if people:
        return _name(_bids(source, people, suffix), source, suffix)
    files = sorted(path for path in source.rglob("*") if _is_candidate(path))
    if not files:
        raise UserError(str(source), "holds no image", "files ending in .nii, .nii.gz, .mgh or .mgz")
    return _name(files, source, suffix)


def patient_of(relative: str) -> str:
    """The BIDS subject in a relative path, or the file's own name."""
    match = _SUBJECT.search(relative)
    return match.group(1) if match else safe(stem(Path(relative)))


def is_bids_name(relative: str) -> bool:
    """Whether a relative path says whose scan it is."""
    return _SUBJECT.search(relative) is not None


def safe(name: str) -> str:
    """A name usable as a folder: other characters become ``-``, and it never starts with a dot."""
    return _UNSAFE.sub("-", name).lstrip(".") or "scan"


def _is_candidate(path: Path) -> bool:
    """Image files, and broken links named like one: those cannot be used, but have to be named."""
    return is_image(path) and (path.is_file() or (path.is_symlink() and not path.exists()))


def _bids(source: Path, people: Iterable[Path], suffix: str) -> list[Path]:
    inside = (path for person in people for pattern in ("anat/*", "ses-*/anat/*") for path in person.glob(pattern))
    anatomical = [path for path in inside if _is_candidate(path)]
    chosen = sorted(path for path in anatomical if stem(path).endswith(f"_{suffix}"))
    if not chosen:
        there = sorted({stem(path).rsplit("_", 1)[-1] for path in anatomical})
        expected = f"sub-*/[ses-*/]anat/*_{suffix}.nii.gz"
        found = f"is a BIDS tree without {suffix} images (found {', '.join(there) or 'none'})"
        raise UserError(str(source), found, expected, "choose --suffix")
    return chosen


def _name(files: list[Path], root: Path, suffix: str) -> list[Found]:
    """Ids from file names; names that occur twice take their folder in front, and a number if even that is not enough."""
    relative = [path.relative_to(root).as_posix() for path in files]
    names = [safe(stem(path).removesuffix(f"_{suffix}")) for path in files]
    count = Counter(name.lower() for name in names)
    person_folders = _person_folders(inside for inside in relative if not is_bids_name(inside))
    result: list[Found] = []
    taken: set[str] = set()
    for path, inside, name in zip(files, relative, names, strict=True):
        if count[name.lower()] > 1:
            name = safe(inside.removesuffix(path.name).replace("/", "_") + path.name.replace(".", "-"))
        unique, number = name, 2
        while unique.lower() in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique.lower())
        parents = PurePosixPath(inside).parts[:-1]
        folder = next((parents[:n] for n in range(1, len(parents) + 1) if parents[:n] in person_folders), None)
        patient = patient_of(inside) if folder is None or is_bids_name(inside) else safe("_".join(folder))
        result.append(Found(unique, patient, path, inside))
    return result


def _person_folders(relative: Iterable[str]) -> set[tuple[str, ...]]:
    """Folders that tell files of one name apart: ``bert`` and ``ernie`` of ``bert/mri/T1.mgz`` and ``ernie/mri/T1.mgz``.

    Only the first folder that differs counts: below it may lie sessions, and a person must not be on both sides of a split. Everything
    in such a folder is that person's.
    """
    same: dict[str, list[tuple[str, ...]]] = {}
    for inside in relative:
        path = PurePosixPath(inside)
        same.setdefault(safe(stem(Path(inside))).lower(), []).append(path.parts[:-1])
    folders: set[tuple[str, ...]] = set()
    for parents in same.values():
        depth = len(list(takewhile(lambda names: len(set(names)) == 1, zip(*parents, strict=False))))
        if len(set(parents)) > 1:
            folders |= {parts[: depth + 1] for parts in parents if len(parts) > depth}
    return folders
