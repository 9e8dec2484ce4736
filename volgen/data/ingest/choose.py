"""Which images of a source are scans to be taken: the filters that a user gives, and one image of each visit."""

from __future__ import annotations

import fnmatch
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from volgen.core.errors import UserError
from volgen.data.ingest.names import NATIVE, Name, is_label_word
from volgen.data.people import Person

SHOWN = 8
"""Choices that a message names."""


@dataclass(frozen=True)
class ScanChoice:
    """What a user asks for.

    Attributes:
        suffix: the last word of the name, such as ``T1w`` or ``t1n``; several have commas between them, such as ``T1w,T2w``, and one image
            of each visit is taken for each; None: T1w in a BIDS tree, one contrast of each visit elsewhere.
        glob: a pattern for the file's name, or, with a slash in it, for its path inside the source.
        space: label of ``space-<label>``; ``native`` for images without one; None: one of those that are there.
        every: take every image of a visit.
    """

    suffix: str | None = None
    glob: str | None = None
    space: str | None = None
    every: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The words of :attr:`suffix`."""
        return tuple(self.suffix.split(",")) if self.suffix else ()


@dataclass
class Filtered:
    """What is taken of a source.

    Attributes:
        taken: indices of the images.
        others: relative path of every image that is not taken, and why.
        warnings: choices that were made for the user.
    """

    taken: list[int]
    others: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def choose(names: Sequence[Name], people: Sequence[Person], choice: ScanChoice, source: str, *, bids: bool) -> Filtered:
    """Applies the filters, then takes one image of each visit, of the same contrast and space everywhere.

    Args:
        names: names of all images.
        people: whose they are, in the same order.
        choice: what the user asks for.
        source: what messages call the source.
        bids: whether it is a BIDS tree.

    Raises:
        UserError: a filter leaves nothing.
    """
    chosen = Filtered(list(range(len(names))))
    suffixes = choice.suffixes or (("T1w",) if bids else ())
    if choice.glob is not None:
        _keep(chosen, names, lambda name: _matches(name, choice.glob or ""), lambda _: f"does not match --glob {choice.glob}")
        _some(chosen, source, f"has no image that matches --glob '{choice.glob}'", "a pattern of file names, such as '*_T1.nii.gz'")
    if suffixes:
        there = _most(Counter(names[index].suffix for index in chosen.taken))
        for word in suffixes:
            if not any(_ends_with(names[index], word, bids) for index in chosen.taken):
                found = f"{'is a BIDS tree without' if bids else 'holds no'} {word} images (found {there})"
                expected = f"sub-*/[ses-*/]anat/*_{word}.nii.gz" if bids else f"names that end in {word}"
                raise UserError(source, found, expected, "choose --suffix")
        asked = " or ".join(suffixes)
        _keep(
            chosen, names, lambda name: any(_ends_with(name, word, bids) for word in suffixes),
            lambda name: f"has another suffix ({name.suffix}) than {asked}",
        )  # fmt: skip
    if not any(map(is_label_word, suffixes)):
        _keep(chosen, names, lambda name: not name.is_label, lambda _: "is a mask or a map of labels by its name")
        _some(
            chosen, source, "holds only masks and maps of labels, by their names", "scans", "choose --suffix if they are to be learnt from"
        )
    _one_space(chosen, names, people, choice, source)
    if not choice.every:
        if not choice.suffixes and not bids:
            _one_contrast(chosen, names, people)
        _one_of_each_visit(chosen, names, people, suffixes)
    return chosen


def _one_space(chosen: Filtered, names: Sequence[Name], people: Sequence[Person], choice: ScanChoice, source: str) -> None:
    visits = _visits_by(chosen, names, people, lambda name: name.space)
    wanted = choice.space
    if wanted is not None:
        there = _most(_sizes(visits))
        _keep(
            chosen, names, lambda name: name.space == choice.space, lambda name: f"is in another space ({name.space}) than {choice.space}"
        )
        _some(chosen, source, f"has no image in the space '{wanted}' (found {there})", "space-<label> in names, or native")
    elif len(visits) > 1 and not choice.every:
        best = max(visits, key=lambda space: (len(visits[space]), space == NATIVE, space))
        chosen.warnings.append(f"images are in several spaces ({_most(_sizes(visits))}): those in {best} are taken; choose with --space")
        _keep(chosen, names, lambda name: name.space == best, lambda name: f"is in another space ({name.space}) than {best}")


def _one_contrast(chosen: Filtered, names: Sequence[Name], people: Sequence[Person]) -> None:
    known = _visits_by(chosen, names, people, lambda name: name.contrast)
    if len(known) < 2:
        return
    most = max(map(len, known.values()))
    # T1w is what volgen takes of a BIDS tree; but not for the sake of a few people.
    best = "T1w" if 2 * len(known.get("T1w", ())) >= most else max(known, key=lambda contrast: (len(known[contrast]), contrast))
    words: dict[str, str] = {}
    for index in chosen.taken:
        words.setdefault(names[index].contrast or "", names[index].suffix)
    there = _most({f"{contrast} such as '{words[contrast]}'": len(them) for contrast, them in known.items()})
    chosen.warnings.append(f"images have several contrasts, {there}: {best} is taken; choose with --suffix or --glob")
    _keep(
        chosen, names, lambda name: name.contrast in (None, best), lambda name: f"has another contrast ({name.contrast}) than {best}"
    )  # fmt: skip


def _one_of_each_visit(chosen: Filtered, names: Sequence[Name], people: Sequence[Person], suffixes: Sequence[str]) -> None:
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index in chosen.taken:
        of = names[index].suffix.lower() if len(suffixes) > 1 else ""
        groups[*people[index].visit, of].append(index)
    visits = Counter(kind for them in groups.values() for kind in {_kind(names[index]) for index in them})
    out: dict[int, str] = {}
    for them in groups.values():
        kinds = {_kind(names[index]): names[index] for index in them}
        if len(kinds) == 1:
            continue
        best = min(kinds, key=lambda kind: (kinds[kind].contrast is None, -visits[kind], len(kind), kind))
        out |= {index: " ".join(best) or "the plain one" for index in them if _kind(names[index]) != best}
    if out:
        there = _most(Counter(out.values()))
        do = "choose with --suffix, --glob or --space, or take them all with --every"
        chosen.warnings.append(f"some visits have several images, and one of each is taken, where so many others are: {there}; {do}")
        reason = {index: f"is another image of a visit of which {best} is taken" for index, best in out.items()}
        chosen.others |= {names[index].relative: reason[index] for index in out}
        chosen.taken = [index for index in chosen.taken if index not in out]


def _kind(name: Name) -> tuple[str, ...]:
    """What tells images of one visit apart, but for numbers: those are repeats."""
    return tuple(word for word in name.words if not word.isdigit())


def _visits_by(
    chosen: Filtered, names: Sequence[Name], people: Sequence[Person], of: Callable[[Name], str | None]
) -> dict[str, set[tuple[str, ...]]]:
    visits: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for index in chosen.taken:
        if (value := of(names[index])) is not None:
            visits[value].add(people[index].visit)
    return visits


def _keep(chosen: Filtered, names: Sequence[Name], wanted: Callable[[Name], bool], reason: Callable[[Name], str]) -> None:
    out = [index for index in chosen.taken if not wanted(names[index])]
    chosen.others |= {names[index].relative: reason(names[index]) for index in out}
    chosen.taken = [index for index in chosen.taken if wanted(names[index])]


def _some(chosen: Filtered, source: str, found: str, expected: str, do: str = "") -> None:
    if not chosen.taken:
        raise UserError(source, found, expected, do)


def _matches(name: Name, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name.relative if "/" in pattern else name.relative.rpartition("/")[2], pattern)


def _ends_with(name: Name, suffix: str, bids: bool) -> bool:
    if bids:
        return name.suffix == suffix
    return name.suffix.lower() == suffix.lower()


def _most(counts: Mapping[str, int]) -> str:
    """The choices, the most frequent first."""
    shown = [f"{name} ({count})" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return ", ".join(shown[:SHOWN]) + (" and more" if len(shown) > SHOWN else "") or "none"


def _sizes(visits: Mapping[str, set[tuple[str, ...]]]) -> dict[str, int]:
    return {name: len(them) for name, them in visits.items()}
