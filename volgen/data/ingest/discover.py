"""Which scans a source holds, and whose they are: from file names alone, never from headers."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from volgen.core.errors import UserError
from volgen.core.files import fingerprint, unfinished
from volgen.core.manifest import NAME as MANIFEST
from volgen.core.progress import say
from volgen.data.ingest.choose import ScanChoice, choose
from volgen.data.ingest.names import parse
from volgen.data.ingest.patients import PatientTable
from volgen.data.people import Person, Way, people_of
from volgen.images.nifti import is_image, stem

RESERVED = ("zarr.json", MANIFEST, ".zgroup", ".zattrs", ".zarray", ".zmetadata")
"""Names in a store that no scan may have."""
LONGEST = 180
"""Bytes of an id: names of files may have 255, and more is put in front and behind."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Found:
    """One scan of a source.

    Attributes:
        id: unique in the source, safe as a folder name, such as ``sub-01_ses-1_run-2``.
        patient: whose scan it is, such as ``sub-01``; without a BIDS name every file is a person of its own, or, where file names
            repeat (``<subject>/mri/T1.mgz``), the folder that :mod:`volgen.data.people` finds. Different names are different people, also
            where an id cannot hold what they differ in.
        path: the file.
        relative: the file's path inside the source, for messages and manifests.
        told_by: how the person was told, one of :data:`WAYS`.
    """

    id: str
    patient: str
    path: Path
    relative: str
    told_by: Way = "files"


@dataclass(frozen=True)
class Selection:
    """What is to be taken of a source.

    Attributes:
        scans: those to be taken, sorted by path.
        others: relative path of each image that is not, and why.
        warnings: choices that were made for the user.
    """

    scans: list[Found]
    others: Mapping[str, str]
    warnings: Sequence[str]


def discover(source: Path, suffix: str = "T1w") -> list[Found]:
    """All images of a file, a folder or a BIDS tree (raw or derivative), sorted by path; of several suffixes with commas between them.

    A folder with ``sub-*`` folders is a BIDS tree: ``sub-*/[ses-*/]anat/*_<suffix>.*`` are taken, and ``derivatives/`` inside it is not
    (a derivative dataset is a source of its own). Any other folder gives every image file in and below it, also behind links
    to folders elsewhere.

    Links that lead nowhere are among the scans, so that whoever reads them can say so.

    Raises:
        UserError: no such path, or no image in it.
    """
    root, files, bids = _images(source)
    relative = [path.relative_to(root).as_posix() for path in files]
    if bids:
        names = [parse(inside) for inside in relative]
        chosen = choose(names, people_of(names), ScanChoice(suffix=suffix, every=True), str(source), bids=True)
        files, relative = [files[index] for index in chosen.taken], [relative[index] for index in chosen.taken]
    return _found(files, relative, people_of([parse(inside) for inside in relative]), suffix.split(","))


def select(source: Path, choice: ScanChoice, table: PatientTable | None = None) -> Selection:
    """The scans of a source that are to be learnt from: what :func:`discover` finds, less masks, other contrasts and other spaces.

    Raises:
        UserError: no such path, no image in it, a filter that leaves none, or a table that does not fit.
    """
    root, files, bids = _images(source)
    relative = [path.relative_to(root).as_posix() for path in files]
    names = [parse(inside) for inside in relative]
    people = people_of(names)
    if table is not None:
        people = table.people(relative, people)
    chosen = choose(names, people, choice, str(source), bids=bids)
    taken = chosen.taken
    if table is not None:
        table.check([relative[i] for i in taken if people[i].told_by != "table"])
    scans = _found([files[i] for i in taken], [relative[i] for i in taken], [people[i] for i in taken], choice.suffixes or ("T1w",))
    return Selection(scans, chosen.others, chosen.warnings)


def _images(source: Path) -> tuple[Path, list[Path], bool]:
    """The folder that paths are relative to, every image, and whether it is a BIDS tree."""
    if not source.exists():
        raise UserError(str(source), "there is no such file or folder", "an image, a folder of images or a BIDS tree")
    if source.is_file():
        if not is_image(source):
            raise UserError(str(source), "is not an image file", "a name ending in .nii, .nii.gz, .mgh or .mgz")
        return source.parent, [source], False
    people = sorted(folder for folder in source.glob("sub-*") if folder.is_dir())
    if people:
        inside = (path for person in people for pattern in ("anat/*", "ses-*/anat/*") for path in person.glob(pattern))
        files = sorted(path for path in inside if _is_candidate(path))
        if not files:
            raise UserError(str(source), "is a BIDS tree without images in anat/", "sub-*/[ses-*/]anat/*_T1w.nii.gz")
        return source, files, True
    files = sorted(path for path in _below(source) if _is_candidate(path))
    if not files:
        raise UserError(str(source), "holds no image", "files ending in .nii, .nii.gz, .mgh or .mgz")
    return source, files, False


def safe(name: str) -> str:
    """A name usable as a folder: other characters become ``-``, and it never starts with a dot."""
    return _UNSAFE.sub("-", name).lstrip(".") or "scan"


def _is_candidate(path: Path) -> bool:
    """Whether a path is an image file, or a broken link called like one, which has to be named; what volgen is just writing is not."""
    if unfinished(path.name) or unfinished(path.parent.name):
        return False
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


def _found(files: Sequence[Path], relative: Sequence[str], people: Sequence[Person], suffixes: Sequence[str]) -> list[Found]:
    """Ids from file names, without the suffix if one was asked for; those that occur twice take their folder in front, or a number too."""
    names = [safe(stem(path).removesuffix(f"_{suffixes[0]}") if len(suffixes) == 1 else stem(path)) for path in files]
    count = Counter(name.lower() for name in names)
    patients = _distinct([person.name for person in people])
    result: list[Found] = []
    taken: set[str] = set()
    for path, inside, name, patient, person in zip(files, relative, names, patients, people, strict=True):
        if count[name.lower()] > 1:
            name = safe(inside.removesuffix(path.name).replace("/", "_") + path.name.replace(".", "-"))
        if name.lower() in RESERVED or name.startswith("__"):  # Zarr keeps the latter for itself
            name = f"scan-{name}"
        if len(name) > LONGEST:
            name = f"{name[:LONGEST]}-{fingerprint(inside)[:8]}"
        unique, number = name, 2
        while unique.lower() in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique.lower())
        result.append(Found(unique, patient, path, inside, person.told_by))
    return result


def _distinct(people: Sequence[str]) -> list[str]:
    """Usable names; where two people would get the same one, those whose own name it is not get a digest of theirs behind it.

    Some systems write an accent apart from its letter: that is no other name.
    """
    people = [unicodedata.normalize("NFC", person) for person in people]
    usable = {person: safe(person.replace("/", "_")) for person in people}
    shared = {name for name, count in Counter(usable.values()).items() if count > 1}
    clash = {person for person, name in usable.items() if name in shared and name != person}
    return [f"{usable[person]}-{fingerprint(person)[:8]}" if person in clash else usable[person] for person in people]
