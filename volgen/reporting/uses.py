"""What the verdicts mean for use: an answer, and why, for each thing that people want volumes for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from volgen.reporting.counts import enough, judged, missed, most

PLANES = {"S": "axial", "A": "coronal", "R": "sagittal"}
MOST = 0.9
"""Share of volumes above which "most" are meant, and the rest may be sorted out."""


def uses(volumes: Sequence[Mapping[str, Any]], cohort: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """``uses`` of ``report.json``: ``{"use", "answer": "yes" | "some" | "no" | "unknown", "text"}``, what is asked most often first.

    Args:
        volumes: entries of the report.
        cohort: measures of the cohort, if there are any.
    """
    return [
        {"use": "3D analysis: segmentation, registration, a 3D network", **_three_dimensional(volumes)},
        {"use": "One slice at a time: 2D networks, figures", **_slices(volumes)},
        {"use": "Mixed with scans like those of the reference", **_mixed(volumes)},
        {"use": "In place of a cohort: group statistics, spread of anatomy", **_cohort(cohort, _count(volumes, "fail"))},
        {"use": "Passed on, because nobody's scan is in them", **_copies(cohort)},
        {"use": "Diagnosis, or the study of a disease", "answer": "no",
         "text": "The checks know nothing of anatomy or disease: a brain with three ventricles passes."},
    ]  # fmt: skip


def _answer(answer: str, text: str) -> dict[str, str]:
    return {"answer": answer, "text": text}


def _count(volumes: Sequence[Mapping[str, Any]], *verdicts: str) -> int:
    return sum(volume["verdict"] in verdicts for volume in volumes)


def _three_dimensional(volumes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    fit, everyone = _count(volumes, "pass", "other"), len(volumes)
    if fit == everyone:
        return _answer("yes", "Slices fit together along all three axes as those of real scans do.")
    if not fit:
        tissue = sum(_of_tissue(volume["findings"]) for volume in volumes)
        if 2 * tissue > everyone:
            return _answer("no", f"None is fit, and in {tissue} of {everyone} the tissue itself is not that of a brain, in any plane.")
        return _answer("no", "In none of them do slices fit together as those of real scans do.")
    return _answer("some", f"Take the {fit} of {everyone} that do not fail; volumes.csv lists them.")


def _slices(volumes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    everyone = len(volumes)
    if _count(volumes, "fail") == 0:
        return _answer("yes", "In every plane.")
    # A fault between the slices of one axis leaves each of these slices as it is.
    good = {axis: sum(_between(axis, v["findings"]) for v in volumes) for axis in PLANES}
    best = [axis for axis, count in good.items() if count >= MOST * everyone]
    if best:
        return _answer(
            "some",
            f"{' and '.join(PLANES[axis] for axis in best).capitalize()} slices: faults lie between these. Leave out those named.",
        )
    if any(_of_tissue(volume["findings"]) for volume in volumes):
        return _answer("no", "Tissue that is not that of a brain, or faults along more than one axis, show within slices of every plane.")
    return _answer("no", "Faults lie along more than one axis, so that they show within slices of every plane.")


def _of_tissue(findings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the volume as a whole fails, and not what is between its slices."""
    return any(f["whole"] for f in findings if f.get("level", "fail") == "fail")


def _between(axis: str, findings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every fault lies between the slices of one axis."""
    return all(f["axis"] == axis and not f["whole"] for f in findings if f.get("level", "fail") == "fail")


def _mixed(volumes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    passed, other, everyone = _count(volumes, "pass"), _count(volumes, "other"), len(volumes)
    if passed == everyone:
        return _answer("yes", "Sharpness, contrast and noise are as in the reference.")
    told = f" {other} can be told apart by sharpness, contrast or noise alone." if other else ""
    if not passed:
        return _answer("no", f"None passes.{told}")
    return _answer("some", f"The {passed} of {everyone} that pass.{told}")


def _cohort(cohort: Mapping[str, Any] | None, failed: int) -> dict[str, str]:
    if cohort is None:
        return _answer("unknown", "Not measured: that needs a store as the reference, and not bands.json.")
    if cohort.get("skipped"):
        return _answer("unknown", str(cohort["skipped"]))
    if faults := missed(cohort):
        return _answer("no", f"{'; '.join(faults).capitalize()}.")
    if few := [goal for goal, _ in judged(cohort) if not enough(goal, cohort)]:
        return _answer("unknown", f"Too few volumes to tell: {most(few)} generated and as many unseen real ones.")
    if failed:
        return _answer(
            "some", f"As real people are, by the measures of the cohort; leave out the {failed} that fail{'s' if failed == 1 else ''}."
        )
    return _answer("yes", "The measures of the cohort are as in real people. They are no test of the anatomy that you study.")


def _copies(cohort: Mapping[str, Any] | None) -> dict[str, str]:
    targets = [target for goal, target in judged(cohort) if goal.copying]
    if any(target["pass"] is False for target in targets):
        return _answer("no", "They are closer to people that the model was trained on than unseen people are.")
    copies = "No copies stand out. " if targets else ""
    return _answer("unknown", f"{copies}A report cannot tell: see the statement of the run (volgen statement) and an audit (volgen audit).")
