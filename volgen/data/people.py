"""Whose an image is, and which visit it is from: ``sub-<label>``, else a folder, else what the file's name begins with.

A folder is a person where file names repeat (``<subject>/mri/T1.mgz``, ``<site>/<subject>/T1.nii``), where it is called one (``subj1``), or
where its files share a subject and differ in contrast (``BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz``).

Two mistakes are possible. A site taken for a person makes a small cohort of a large one; a visit taken for a person puts one person on both
sides of a split, and nobody notices. So a folder counts as a person with everything in it, unless what is in it can hardly be visits.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

from volgen.data.ingest.names import Name, common_base, without_visit
from volgen.images.nifti import stem

Folder = tuple[str, ...]
Way = Literal["files", "folders", "bids", "table"]
WAYS: tuple[Way, ...] = ("files", "folders", "bids", "table")
"""How people can be told apart, from the way that says least to the one that says most: each file is one (or each folder that is called a
visit), a folder is one, ``sub-<label>``, a table of the user's."""


@dataclass(frozen=True)
class Person:
    """Whose an image is.

    Attributes:
        name: the person's name, as it is written.
        told_by: how that is known.
        visit: equal for images of one person's one visit.
    """

    name: str
    told_by: Way
    visit: tuple[str, ...]


_VISIT = re.compile(
    r"""(?ix)
    \d{1,2}                                                                  # 1, 02
    | .*(19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d.*                               # 20240131, 2024-01-31
    | (ses|sess|session|visit|vis|v|tp|timepoint|time|t|day|d|week|wk|w|month|mo|m|year|yr|y|wave|scan|run|exam|study|series|acq
       |baseline|base|bl|follow.?up|fu|pre|post|test|retest|mri?|anat|t[12]w?|flair|nifti|nii|raw|orig)[-_. ]*\d*
    """
)
_CONTAINER = re.compile(r"(?i)(mri?|anat|t[12]w?|flair|nifti|nii|raw|orig)[-_. ]*\d*")
"""Those of the names above whose folders hold the images of a visit, or one of its contrasts."""
_YEAR = re.compile(r"(19|20)\d\d")
_PERSON = re.compile(r"(?i)(sub|subj|subject|p|pat|patient|participant|person|id|case|control|ctrl|hc)[-_. ]*\d+")


def people_of(names: Sequence[Name]) -> list[Person]:
    """The person of each image, in the order of the names. It depends on all of them: files of one folder tell of each other."""
    plain = [name for name in names if not name.entities]
    repeated = person_folders(name.relative for name in plain)
    by_folder: dict[Folder, list[Name]] = defaultdict(list)
    for name in plain:
        by_folder[PurePosixPath(name.relative).parts[:-1]].append(name)
    bases = {folder: common_base([stem(Path(name.relative)) for name in them]) for folder, them in by_folder.items() if folder}
    # "scan_20200101", "scan_20200102": if that is all there is, the date is all that tells them apart.
    without = {name.person for name in plain if name.person != name.base}
    dates_only = len({name.person for name in plain if name.base}) == 1 and not any(letter.isdigit() for letter in "".join(without))
    people = []
    for name in names:
        parents = PurePosixPath(name.relative).parts[:-1]
        prefixes = [parents[:depth] for depth in range(1, len(parents) + 1)]
        called = next((prefix for prefix in prefixes if _PERSON.fullmatch(prefix[-1])), None)
        folder = next((prefix for prefix in prefixes if prefix in repeated), called)
        if name.entities:
            people.append(Person(name.person, "bids", (name.base,)))
        elif folder is not None:
            own = without_visit("/".join(folder))
            visits = [part for part in parents[len(folder) :] if _VISIT.fullmatch(part) and not _CONTAINER.fullmatch(part)]
            unsure = own.endswith(folder[-1]) and _may_be_visit(folder[-1])  # "P001_20200101" is P001, but "20200101" may be anybody
            told: Way = "files" if unsure else "folders"
            people.append(Person(own, told, (own, *folder, *visits, name.base if name.base != name.person else "")))
        elif bases.get(parents):
            people.append(Person(without_visit(bases[parents]), "folders", ("", *parents)))
        elif not name.base:  # words alone: images of whatever the folder is
            people.append(Person("/".join(parents) or stem(Path(name.relative)), "folders" if parents else "files", ("", *parents)))
        else:
            own = name.base if dates_only else name.person
            people.append(Person(own, "files", (own, *parents, name.base)))
    return people


def person_folders(files: Iterable[str]) -> set[Folder]:
    """Folders that are people, from the relative paths of files.

    Of files of one name, the first folder that differs is the person (below it may lie visits), or, where that can only be a site, a folder
    further down.
    """
    same: dict[str, list[Folder]] = {}
    for inside in files:
        path = PurePosixPath(inside)
        same.setdefault(stem(Path(inside)).lower(), []).append(path.parts[:-1])
    folders: set[Folder] = set()
    for parents in same.values():
        depth = len(list(takewhile(lambda names: len(set(names)) == 1, zip(*parents, strict=False)))) + 1
        if len(set(parents)) > 1:
            while _holds_people(parents, depth):
                depth += 1
            folders |= {parts[:depth] for parts in parents if len(parts) >= depth}
    return folders


def _holds_people(parents: Sequence[Folder], depth: int) -> bool:
    """Whether the folders at a depth are sites: none holds an image itself, and names in them say people, or not visits at least."""
    if any(len(parts) <= depth for parts in parents):
        return False
    inside = {parts[: depth + 1] for parts in parents}
    if max(Counter(parts[:depth] for parts in inside).values()) == 1:
        return False  # a folder in each: nothing to tell apart
    names = [parts[depth].lower() for parts in inside]
    if all(_PERSON.fullmatch(name) for name in names):
        return True  # also where each site begins to count at 1
    return len(set(names)) == len(names) and not any(
        _is_visit(name, parts[depth - 1].lower()) for name, parts in zip(names, inside, strict=True)
    )


def _may_be_visit(name: str) -> bool:
    """Whether a folder that counts as a person is rather called a visit, a date or a contrast: then one person may be in several."""
    return _YEAR.fullmatch(name) is not None or (len(name) > 1 and not name.isdigit() and _VISIT.fullmatch(name) is not None)


def _is_visit(name: str, folder: str) -> bool:
    """Whether a folder is a visit by its name or by that of its parent: ``OAS1_0001/OAS1_0001_MR1`` is, ``NYU/NYU_0051`` is not."""
    return _VISIT.fullmatch(name) is not None or (name.startswith(folder) and any(letter.isdigit() for letter in folder))
