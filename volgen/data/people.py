"""Which folder is a person, where files have no ``sub-<label>`` and names repeat: ``<subject>/mri/T1.mgz``, ``<site>/<subject>/T1.nii``.

Two mistakes are possible. A site taken for a person makes a small cohort of a large one; a visit taken for a person puts one person on both
sides of a split, and nobody notices. So a folder counts as a person with everything in it, unless what is in it can hardly be visits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from volgen.data.nifti import stem

Folder = tuple[str, ...]

_VISIT = re.compile(
    r"""(?ix)
    \d{1,2}                                                                  # 1, 02
    | .*(19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d.*                               # 20240131, 2024-01-31
    | (ses|sess|session|visit|vis|v|tp|timepoint|time|t|day|d|week|wk|w|month|mo|m|year|yr|y|wave|scan|run|exam|study|series|acq
       |baseline|base|bl|follow.?up|fu|pre|post|test|retest|mri?|anat|t[12]w?|flair|nifti|nii|raw|orig)[-_. ]*\d*
    """
)
_PERSON = re.compile(r"(?i)(sub|subj|subject|p|pat|patient|participant|person|id|case|control|ctrl|hc)[-_. ]*\d+")


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


def _is_visit(name: str, folder: str) -> bool:
    """A visit by its name, or by that of the folder in front of it: ``OAS1_0001/OAS1_0001_MR1``, but not ``NYU/NYU_0051``."""
    return _VISIT.fullmatch(name) is not None or (name.startswith(folder) and any(letter.isdigit() for letter in folder))
