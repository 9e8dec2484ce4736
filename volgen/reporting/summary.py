"""A report in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from volgen.reporting.counts import enough, judged, missed, too_few
from volgen.reporting.uses import uses


def summarise(
    volumes: Sequence[Mapping[str, Any]], unread: Sequence[Mapping[str, str]], labels: Mapping[str, str], cohort: Mapping[str, Any] | None
) -> dict[str, Any]:
    """``summary`` of ``report.json``: counts, a headline, a few sentences, what the volumes are fit for, and what they are too few for.

    Args:
        volumes: entries of the report.
        unread: files that could not be read.
        labels: words for each metric.
        cohort: measures of the cohort, if there are any.
    """
    passed = sum(volume["verdict"] == "pass" for volume in volumes)
    other = sum(volume["verdict"] == "other" for volume in volumes)
    failed = len(volumes) - passed - other
    text = []
    if other:
        text.append(
            f"{other} {'is' if other == 1 else 'are'} unlike the reference in sharpness, contrast or noise along all axes alike: "
            "blurred or noisy throughout, or of another scanner or protocol. Bands belong to an acquisition: "
            "compare with scans of the kind trained on."
        )
    if not failed + other:
        text.append(
            "From slice to slice, along all three axes, and in their tissues, they cannot be told from real volumes by these checks."
        )
    else:
        places = [{(f["metric"], "" if f["whole"] else f" along {f['axis']}") for f in v["findings"]} for v in volumes]
        common = Counter(place for of_volume in places for place in of_volume)
        named = sorted(common.items(), key=lambda item: (-item[1], item[0]))[:3]
        words = "; ".join(f"{labels.get(metric, metric)}{where} ({count} of {len(volumes)})" for (metric, where), count in named)
        text.append(f"Most frequently outside the band of real volumes: {words}.")
    if unread:
        text.append(f"{len(unread)} file{'s' if len(unread) > 1 else ''} could not be read.")
    if faults := missed(cohort):
        text.append("As a cohort: " + "; ".join(faults) + ".")
    elif any(target["pass"] is not None for goal, target in judged(cohort) if cohort and enough(goal, cohort)):
        text.append("As a cohort they meet every target that could be measured on enough volumes.")
    return {
        "headline": f"{passed} of {len(volumes)} volume{'s' if len(volumes) != 1 else ''} pass{'es' if len(volumes) == 1 else ''}",
        "text": text,
        "interval": passing_interval(passed, len(volumes)), "uses": uses(volumes, cohort),
        "few": too_few(len(volumes), cohort), "volumes": len(volumes), "passed": passed, "other": other, "failed": failed,
        "unread": len(unread),
    }  # fmt: skip


def not_passed(summary: Mapping[str, Any]) -> int:
    """How many volumes of a report do not pass, as ``--strict`` counts: those that fail, are of another acquisition, or cannot be read."""
    count: int = summary["failed"] + summary["other"] + summary["unread"]
    return count


def passing_interval(passed: int, volumes: int) -> list[float]:
    """95 % interval of the share that passes, exact (Clopper and Pearson 1934)."""
    exact = stats.binomtest(passed, volumes).proportion_ci(0.95, method="exact")
    return [round(float(exact.low), 4), round(float(exact.high), 4)]
