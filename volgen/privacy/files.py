"""Which files of a run directory a guarantee covers, so that they may leave, and which have to stay inside, and why.

Every file of a run is in exactly one of the two lists (:func:`covered`, :func:`kept_inside`).
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from volgen.core import run_files as run

COVERED = (
    run.CONFIG, run.ENSEMBLE, run.GEOMETRY, run.PRECONDITIONER, run.CHECKSUMS, run.ASSEMBLY, run.of_expert("*", run.WEIGHTS),
    run.METRICS, run.LEDGER,
)  # fmt: skip
"""Patterns of paths relative to the run; ``*`` is one name."""
INSIDE = {
    run.MANIFEST: "its fingerprint of the cohort tells whoever already has a copy that it is the same",
    run.JOURNAL: "it counts the steps of each launch; nothing in it is of a patient, and nobody needs it",
    run.of_expert("*", run.PHASE): "who trained what, and losses of validation people where there are any",
    run.of_expert("*", f"{run.CHECKPOINT}*/**"): "checkpoints: of a network that is being trained; nobody needs them",
    f"{run.BOARD}/**": "wall times: a step takes longer when more patients are drawn, and timing is not protected",
    run.FOR_TRAINING: "it leaves single people out, which gives them away",
    run.CARD: "made for those who have the whole run; a release has one of its own",
    "*.png": "curves and pictures of training, made for those who have the whole run",
    "**/.*/**": "checkpoints that were damaged, and what was being written when something was killed",
    "**/.*": "locks, with the names of machines, and files that were being written when something was killed",
}
"""Patterns likewise, ``**`` being any names, and why such a file is not released."""
CAUTION = f"{run.CONFIG}: it names the folders of store, runs and public run as they were typed, which may say more than they should"
NOT_COVERED = (CAUTION, *(f"{pattern}: {why}" for pattern, why in INSIDE.items()))


def covered(name: str) -> bool:
    """Whether a file may leave, by its path relative to the run, with ``/``."""
    return any(_matches(name, pattern) for pattern in COVERED)


def kept_inside(name: str) -> bool:
    """Whether a file has to stay, by its path relative to the run, with ``/``."""
    return any(_matches(name, pattern) for pattern in INSIDE)


def _matches(name: str, pattern: str) -> bool:
    return _parts(name.split("/"), pattern.split("/"))


def _parts(names: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_parts(names[skipped:], patterns[1:]) for skipped in range(len(names))) or (patterns == ["**"] and bool(names))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _parts(names[1:], patterns[1:])
