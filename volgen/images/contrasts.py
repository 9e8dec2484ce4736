"""What images show, by the suffixes that BIDS has for the contrasts of anatomical ones, and the words by which people call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

UNSAID = "T1w"
"""Suffix of images whose contrast nobody said."""
SUFFIXES: Mapping[str, str] = {
    "T1w": "T1-weighted", "T2w": "T2-weighted", "FLAIR": "FLAIR", "PDw": "proton density weighted", "T2starw": "T2*-weighted",
    "UNIT1": "MP2RAGE (UNIT1)",
}  # fmt: skip
"""What a sidecar calls them. Generated and exported images have one of these."""
WITH_AGENT = "T1w with contrast agent"
_WORDS: Mapping[str, str] = {
    "T1w": "t1 t1w t1n t1wi mprage mpr mpr1 spgr fspgr irfspgr bravo tfe t1mprage t1mpr memprage",
    WITH_AGENT: "t1c t1ce t1cw t1gd t1gad t1post t1km t1wce t1wgd",
    "T2w": "t2 t2w t2wi t2tse t2space",
    "FLAIR": "flair t2f t2flair t2wflair fla",
    "PDw": "pd pdw",
    "T2starw": "t2star t2starw t2s gre",
    "UNIT1": "unit1 mp2rage uni",
    "inversion": "inv1 inv2 ir",
    "susceptibility": "swi swan qsm",
    "diffusion": "dwi dti adc fa md trace b0 b1000",
    "function": "bold epi asl cbf fmri rest perf",
    "vessels": "mra tof angio",
    "CT": "ct",
    "PET": "pet fdg suv",
}
CONTRASTS: Mapping[str, str] = {word: name for name, words in _WORDS.items() for word in words.split()}
"""Word in lower case, as names and tables have it -> contrast."""


def suffix_of(contrast: str | None) -> str:
    """The suffix of a contrast, one of :data:`SUFFIXES`; "" if BIDS has none that volgen writes. A contrast agent is no part of it."""
    suffix = UNSAID if contrast == WITH_AGENT else contrast or ""
    return suffix if suffix in SUFFIXES else ""


def suffix_named(word: str) -> str:
    """The suffix of the contrast that a word calls, such as ``T2w`` of ``t2``; "" if it calls none."""
    return suffix_of(CONTRASTS.get(word.strip().lower()))


def of_cohort(suffixes: Iterable[str]) -> tuple[str, ...]:
    """The contrasts of a cohort, in alphabetical order; :data:`UNSAID` alone where nobody said of one of its scans ("") what it shows."""
    found = sorted(set(suffixes))
    return tuple(found) if found and all(found) else (UNSAID,)
