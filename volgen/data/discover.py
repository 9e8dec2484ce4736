"""Which scans a source holds, and whose they are: from file names alone, never from headers."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from volgen.core.errors import UserError
from volgen.core.files import fingerprint
from volgen.core.progress import say
from volgen.data.nifti import is_image, stem
from volgen.data.people import person_folders

_SUBJECT = re.compile(r"(?:^|[_/])(sub-[^_/.-]+)")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Found:
    """One scan.

    Attributes:
        id: unique in the source, safe as a folder name, such as ``sub-01_ses-1_run-2``.
        patient: whose scan it is, such as ``sub-01``; without a BIDS name every file is a person of its own, or, where file names
            repeat (``<subject>/mri/T1.mgz``), the folder that :mod:`volgen.data.people` finds. Different names are different people, also
            where an id cannot hold what they differ in.
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
    (a derivative dataset is a source of its own). Any other folder gives every image file in and below it, also behind links
    to folders elsewhere.

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
    files = sorted(path for path in _below(source) if _is_candidate(path))
    if not files:
        raise UserError(str(source), "holds no image", "files ending in .nii, .nii.gz, .mgh or .mgz")
    return _name(files, source, suffix)


def is_bids_name(relative: str) -> bool:
    """Whether a relative path says whose scan it is."""
    return _SUBJECT.search(relative) is not None


def safe(name: str) -> str:
    """A name usable as a folder: other characters become ``-``, and it never starts with a dot."""
    return _UNSAFE.sub("-", name).lstrip(".") or "scan"


def _is_candidate(path: Path) -> bool:
    """Image files, and broken links named like one: those cannot be used, but have to be named."""
    return is_image(path) and (path.is_file() or (path.is_symlink() and not path.exists()))


def _below(source: Path) -> Iterator[Path]:
    """Everything in and below a folder, then below folders elsewhere that links in it lead to; each once."""
    root = source.resolve()
    seen, waiting = set[Path](), [source]
    while waiting:
        start = waiting.pop(0)
        real = start.resolve()
        if start != source:
            if real in seen or real.is_relative_to(root) or root.is_relative_to(real):
                continue
            say(f"{start} is a link to {real}: its images are taken too.")
        for here, folders, files in os.walk(start):
            if (folder := Path(here).resolve()) in seen:
                folders.clear()
                continue
            seen.add(folder)
            waiting += [Path(here) / name for name in sorted(folders) if (Path(here) / name).is_symlink()]
            yield from (Path(here) / name for name in files)


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
    patients = _distinct(_people(relative))
    result: list[Found] = []
    taken: set[str] = set()
    for path, inside, name, patient in zip(files, relative, names, patients, strict=True):
        if count[name.lower()] > 1:
            name = safe(inside.removesuffix(path.name).replace("/", "_") + path.name.replace(".", "-"))
        unique, number = name, 2
        while unique.lower() in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique.lower())
        result.append(Found(unique, patient, path, inside))
    return result


def _people(relative: Sequence[str]) -> list[str]:
    """The name of the person of each file, as it is written: a BIDS subject, a folder or a file."""
    folders = person_folders(inside for inside in relative if not is_bids_name(inside))
    people = []
    for inside in relative:
        subject = _SUBJECT.search(inside)
        parents = PurePosixPath(inside).parts[:-1]
        folder = next((parents[:depth] for depth in range(1, len(parents) + 1) if parents[:depth] in folders), None)
        people.append(subject.group(1) if subject else stem(Path(inside)) if folder is None else "/".join(folder))
    # Some systems write an accent apart from its letter: that is no other name.
    return [unicodedata.normalize("NFC", person) for person in people]


def _distinct(people: Sequence[str]) -> list[str]:
    """Usable names; where two people would get the same one, those whose own name it is not get a digest of theirs behind it."""
    usable = {person: safe(person.replace("/", "_")) for person in people}
    shared = {name for name, count in Counter(usable.values()).items() if count > 1}
    clash = {person for person, name in usable.items() if name in shared and name != person}
    return [f"{usable[person]}-{fingerprint(person)[:8]}" if person in clash else usable[person] for person in people]
