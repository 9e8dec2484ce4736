"""What the name of an image says: entities of BIDS, the contrast, the space, whether it is a mask, and which visit of whom it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

from volgen.images.contrasts import CONTRASTS, UNSAID, WITH_AGENT
from volgen.images.nifti import stem

NATIVE = "native"
"""Space of an image whose name states none."""
_TOKEN = re.compile(r"[^_\-.+ ]+")
_ENTITY = re.compile(r"([a-z]+)-([^_]+)")
_SUBJECT = re.compile(r"(?:^|[_/])(sub-[^_/.-]+)")
_SESSION = re.compile(r"(?:^|[_/])(ses-[^_/.-]+)")
_AGENT = {"ce", "gd", "gad", "contrast", "post", "c", "km"}
_LABELS = {
    *("mask", "dseg", "probseg", "seg", "segm", "segmentation", "segmentations", "label", "labels", "labelmap", "aseg", "ribbon", "aparc"),
    *(
        "wmparc",
        "pve",
        "pveseg",
        "firstseg",
        "parc",
        "parcellation",
        "lesion",
        "lesions",
        "roi",
        "rois",
        "gt",
        "groundtruth",
        "annot",
        "filled",
    ),
}
_LABELS_ANYWHERE = {"dseg", "probseg", "aseg", "aparc", "wmparc", "ribbon", "pveseg", "firstseg"}
_PROCESSING = {
    *("brain", "bet", "stripped", "skullstripped", "ss", "bias", "biascorr", "n4", "bfc", "norm", "normalized", "normalised", "reg", "nu"),
    *("registered", "resampled", "mni", "std", "defaced", "deface", "anon", "cropped", "crop", "iso", "orig", "raw", "preproc", "warped"),
    *("native", "noreg", "eddy", "tumor", "rawavg", "brainmask", "ax", "sag", "cor", "axial", "sagittal", "coronal", "3d", "tra"),
}
_WORDS = CONTRASTS.keys() | _LABELS | _PROCESSING | (_AGENT - {"c"})
_VISIT_WORD = r"(ses|sess|session|visit|vis|tp|timepoint|wave|baseline|bl|followup|fu|month|mo|week|wk|mr|run|retest)"
_VISIT = re.compile(rf"(?i){_VISIT_WORD}\d{{1,4}}|baseline|bl|followup|fu|retest|(19|20)\d\d[01]\d[0-3]\d")
_YEAR = re.compile(r"(19|20)\d\d")


@dataclass(frozen=True)
class Name:
    """The name of one image.

    Attributes:
        relative: its path inside the source.
        base: what is left of it without words for contrast, processing and masks: whose it is and which visit. May be empty.
        person: the base without the visit.
        words: the rest, in lower case: contrast, processing, mask.
        entities: the entities of BIDS; empty for a path without ``sub-<label>``.
    """

    relative: str
    base: str
    person: str
    words: tuple[str, ...]
    entities: Mapping[str, str] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """The last word, as it is written: in BIDS what kind of image it is."""
        return _tokens(stem(Path(self.relative)))[-1]

    @property
    def contrast(self) -> str | None:
        """The contrast, None if no word in the name, or of the folders it is in, says it."""
        for part in (
            self.words,
            *(tuple(token.lower() for token in _tokens(folder)) for folder in PurePosixPath(self.relative).parts[-2::-1]),
        ):
            found = [CONTRASTS[word] for word in part if word in CONTRASTS]
            if "FLAIR" in found:
                return "FLAIR"
            if found:
                agent = found[0] == UNSAID and ("ce" in self.entities or not _AGENT.isdisjoint(part))
                return WITH_AGENT if agent else found[0]
            if self.entities:
                return None
        return None

    @property
    def space(self) -> str:
        """The label of ``space-<label>``, in any name."""
        return _entities(stem(Path(self.relative))).get("space", NATIVE)

    @property
    def is_label(self) -> bool:
        """Whether the name says that it is a mask or a map of labels."""
        if self.entities:
            return _bare(self.suffix) in _LABELS
        last = next((word for word in reversed(self.words) if not word.isdigit()), "")
        return bool(self.words) and (_bare(last) in _LABELS or not _LABELS_ANYWHERE.isdisjoint(map(_bare, self.words)))


def is_label_word(word: str) -> bool:
    """Whether a suffix asks for masks or maps of labels."""
    return word.lower() in _LABELS


def parse(relative: str) -> Name:
    """What a relative path says."""
    name = stem(Path(relative))
    subject, session = _SUBJECT.search(relative), _SESSION.search(relative)
    if subject is not None:
        entities = {"sub": subject.group(1), "ses": session.group(1) if session else ""} | _entities(name)
        words = []
        for part in name.split("_"):
            entity = _ENTITY.fullmatch(part)
            if entity is None:
                words += [token.lower() for token in _tokens(part)]
            elif entity.group(1) not in ("sub", "ses", "run", "acq"):
                words.append(part.lower())
        return Name(relative, "_".join(found.group(1) for found in (subject, session) if found), subject.group(1), tuple(words), entities)
    base = _without_words(name)
    person = _without_words(without_visit(base)) if base else ""
    rest = tuple(token.lower() for token in _TOKEN.findall(name[len(base) :]))
    # "1234567_T1_2019": words may also lie between whose it is and when it was.
    between = tuple(token.lower() for token in _TOKEN.findall(base[len(person) :]) if _bare(token) in _WORDS)
    return Name(relative, base, person, (*between, *rest))


def _without_words(name: str) -> str:
    """What is left of a name without the words at its end; a number behind a word for a mask belongs to it."""
    found = list(_TOKEN.finditer(name))
    while found:
        texts = [_bare(token.group()) for token in found]
        if texts[-1] in _WORDS:
            found = found[:-1]
        elif len(found) > 1 and texts[-1].isdigit() and len(texts[-1]) < 3 and texts[-2] in _LABELS:
            found = found[:-2]
        else:
            break
    return name[: found[-1].end()] if found else ""


def without_visit(name: str) -> str:
    """A name without session, date or time point at its end: ``P1_20200101`` -> ``P1``, ``BraTS-GLI-00005-001`` -> ``BraTS-GLI-00005``.

    A numbered visit behind the number of a person ends it also in the middle: ``OAS1_0001_MR2_mpr_n4_anon_111_t88_gfc`` -> ``OAS1_0001``.
    """
    numbered = rf"(?i){_VISIT_WORD}\d{{1,4}}"
    tokens = list(_TOKEN.finditer(name))
    for before, token in pairwise(tokens):
        if re.fullmatch(numbered, token.group()) and re.search(r"\d{3}", before.group()):
            name = name[: before.end()]
            break
    while True:
        found = list(_TOKEN.finditer(name))
        texts = [token.group() for token in found]
        count = 0
        if len(found) > 1 and _VISIT.fullmatch(texts[-1]):
            count = 1
        elif len(found) > 2 and re.fullmatch(rf"(?i){_VISIT_WORD}", texts[-2]) and re.fullmatch(r"\d{1,4}", texts[-1]):
            count = 2
        elif len(found) > 3 and re.fullmatch(r"(19|20)\d\d [01]\d [0-3]\d", " ".join(texts[-3:])):
            count = 3
        elif len(found) > 1 and _YEAR.fullmatch(texts[-1]) and any(re.search(r"\d{3}", text) for text in texts[:-1]):
            count = 1
        elif len(found) > 1 and re.fullmatch(r"\d{3}", texts[-1]) and re.fullmatch(r"\d{4,}", texts[-2]):
            return name[: found[-2].end()]  # BraTS: the number of the patient, then that of the time point
        if not count:
            return name
        name = name[: found[-count - 1].end()]


def common_base(names: Sequence[str]) -> str:
    """What several file stems begin with, if it names a subject and most go on with a word for contrast, processing or mask; else ""."""
    tokens = [_tokens(name) for name in names]
    length = 0
    while all(len(own) > length and own[length].lower() == tokens[0][length].lower() for own in tokens):
        length += 1
    rest = [own[length] for own in tokens if len(own) > length]
    if len(names) < 2 or not length or not any(any(letter.isdigit() for letter in token) for token in tokens[0][:length]):
        return ""
    if 2 * sum(_bare(word) in _WORDS for word in rest) < len(names):
        return ""
    return names[0][: list(_TOKEN.finditer(names[0]))[length - 1].end()]


def _tokens(name: str) -> list[str]:
    return _TOKEN.findall(name) or [name]


def _entities(name: str) -> dict[str, str]:
    return {found.group(1): found.group(2) for part in name.split("_") if (found := _ENTITY.fullmatch(part))}


def _bare(word: str) -> str:
    """A word in lower case; a mask's number is no part of it."""
    lower = word.lower()
    return lower if lower in CONTRASTS else lower.rstrip("0123456789") or lower
