"""Generators against the same bands: distances by hand, intervals that mean something, verdicts in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from volgen.evaluation.check import CheckResult, Metric
from volgen.evaluation.compare import FARTHEST, FEWEST, compare
from volgen.evaluation.measure import Measures
from volgen.evaluation.reference import Reference
from volgen.reporting import compare_page

METRIC = Metric("a", "a number", "has too little of a", "has slices here with too much of a")
LOG = Metric("b", "a ratio", "", "has too much of b", "log")


class _Numbers:
    kind = "numbers"
    metrics = (METRIC, LOG)

    def relate(self, values: dict, means: dict) -> dict:
        return dict(values)


@pytest.fixture(scope="module")
def bands() -> Reference:
    rng = np.random.default_rng(0)
    real = [
        Measures({"numbers": CheckResult({"a": tuple(rng.normal(5, 1, 3)), "b": tuple(np.exp(rng.normal(0, 0.3, 3)))})}, (None,) * 3,
                    None, 0.0, (), (), (), litres=1.4)
        for _ in range(24)
    ]  # fmt: skip
    return Reference.fit(real, [_Numbers()], (1.0, 1.0, 1.0), (1, 1, 1))  # type: ignore[list-item]


def volume(name: str, a: float | None, bands: Reference, b: float = 1.0) -> dict[str, Any]:
    """A volume whose number along S is `a`; a finding if it lies outside."""
    low, high = bands.bands["a"][2]
    outside = a is None or not low <= a <= high
    finding = {"check": "numbers", "metric": "a", "axis": "S", "whole": False, "slices": None, "value": a, "band": [low, high], "text": ""}
    return {
        "name": name, "verdict": "fail" if outside else "pass", "findings": [finding] if outside else [],
        "metrics": {"a": {"R": 5.0, "A": 5.0, "S": a}, "b": {"R": b, "A": 1.0, "S": 1.0}},
    }  # fmt: skip


def reports(bands: Reference, **values: Sequence[float | None]) -> dict[str, Any]:
    return {name: {"volumes": [volume(f"{name}-{i}", a, bands) for i, a in enumerate(row)]} for name, row in values.items()}


def test_distances_are_widths_of_the_band_on_the_metrics_own_scale(bands: Reference) -> None:
    low, high = bands.bands["a"][2]
    entry = compare(reports(bands, x=[high + 2 * (high - low)], y=[5.0]), bands)[1]
    assert entry["metrics"]["a"]["S"]["distance"]["value"] == pytest.approx(2.0)
    assert entry["distance"]["value"] == pytest.approx(2.0 / 6)  # two metrics, three axes
    assert entry["axes"]["S"]["value"] == pytest.approx(1.0)
    assert entry["axes"]["R"]["value"] == 0.0
    bottom, top = bands.bands["b"][0]
    far = {"z": {"volumes": [volume("z", 5.0, bands, b=top * (top / bottom) ** 3)]}, "w": {"volumes": [volume("w", 5.0, bands, b=1e-12)]}}
    found = {entry["name"]: entry["metrics"]["b"]["R"]["distance"]["value"] for entry in compare(far, bands)}
    assert found["z"] == pytest.approx(3.0)
    assert found["w"] == 0.0  # too little of b is no fault


def test_what_cannot_be_measured_counts_as_farthest_and_has_no_median(bands: Reference) -> None:
    first, second = compare(reports(bands, x=[None, None], y=[5.0, 5.0]), bands)
    assert (first["name"], second["name"]) == ("y", "x")
    assert second["metrics"]["a"]["S"]["distance"]["value"] == FARTHEST
    assert second["metrics"]["a"]["S"]["median"] is None
    half = compare(reports(bands, x=[None, 4.0, 6.0], y=[5.0, 5.0]), bands)[1]["metrics"]["a"]["S"]
    assert half["median"] == 5.0
    assert 4.0 <= half["interval"][0] < half["interval"][1] <= 6.0


def test_the_share_condemned_has_an_exact_interval_and_distances_a_resampled_one(bands: Reference) -> None:
    rng = np.random.default_rng(3)
    bad = list(40 + rng.normal(0, 4, 16))
    entry = compare(reports(bands, bad=bad, good=[5.0] * 16), bands)[1]
    assert entry["share_condemned"] == {"value": 1.0, "interval": [pytest.approx(0.025 ** (1 / 16), abs=1e-5), 1.0]}
    # The mean of 16 draws of sd 4 has a standard error of 1; that of the distance is that over the width of the band and 6.
    low, high = bands.bands["a"][2]
    expected = np.std(bad) / 4 / (high - low) / 6
    assert (entry["distance"]["interval"][1] - entry["distance"]["interval"][0]) / (2 * 1.96) == pytest.approx(expected, rel=0.1)
    assert entry["distance"]["interval"][0] < entry["distance"]["value"] < entry["distance"]["interval"][1]


def test_one_volume_has_no_interval_by_resampling(bands: Reference) -> None:
    entry = compare(reports(bands, one=[40.0], two=[5.0, 5.0]), bands)[1]
    assert entry["distance"]["interval"] is None
    assert entry["metrics"]["a"]["S"]["interval"] is None
    assert entry["share_condemned"]["interval"] == [pytest.approx(0.025), 1.0]


def test_the_ranking_says_how_sure_it_is(bands: Reference) -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(30, 3, (2, 12))
    order = compare(reports(bands, far=[90.0] * 12, one=list(one), other=list(other), good=[5.0] * 12), bands)
    assert [entry["name"] for entry in order][::3] == ["good", "far"]
    assert [entry["rank"] for entry in order] == [1, 2, 3, 4]
    assert order[0]["ahead_of_next"] == 1.0
    assert 0.5 < order[1]["ahead_of_next"] < 0.95  # drawn from the same distribution
    assert order[2]["ahead_of_next"] == 1.0
    assert order[3]["ahead_of_next"] is None


@pytest.mark.parametrize(
    ("bad", "of", "verdict"),
    [(0, 16, "passes"), (1, 16, "passes"), (1, 8, "undecided"), (2, 4, "partly condemned"), (1, 2, "undecided"), (16, 16, "condemned"),
     (9, 16, "condemned")],
)  # fmt: skip
def test_verdicts_allow_for_the_false_alarms_of_real_scans(bands: Reference, bad: int, of: int, verdict: str) -> None:
    found = {e["name"]: e for e in compare(reports(bands, x=[40.0] * bad + [5.0] * (of - bad), y=[5.0]), bands)}["x"]
    assert found["verdict"] == verdict


def test_a_verdict_in_words_says_what_where_and_how_often(bands: Reference) -> None:
    first, second = compare(reports(bands, independent=[40.0] * 15 + [-40.0], real=[5.0] * 3), bands)
    assert first["text"] == "real: passes; 3 of 3 volumes pass"
    assert second["text"] == (
        "independent: condemned, 16 of 16 volumes; along S in 15 of 16 it has slices with too much of a; "
        "along S in 1 of 16 it has too little of a"
    )
    assert second["reasons"] == [
        {"check": "numbers", "metric": "a", "axis": "S", "whole": False, "volumes": 15, "text": "has slices with too much of a"},
        {"check": "numbers", "metric": "a", "axis": "S", "whole": False, "volumes": 1, "text": "has too little of a"},
    ]  # fmt: skip


def test_the_median_volume_is_the_one_in_the_middle(bands: Reference) -> None:
    entry = compare(reports(bands, x=[90.0, 5.0, 40.0], y=[5.0]), bands)[1]
    assert entry["median_volume"] == "x-2"


def test_a_volume_without_a_head_says_so(bands: Reference) -> None:
    assert "in 2 of 2 it shows no head" in compare(reports(bands, x=[None, None], y=[5.0]), bands)[1]["text"]


def other(name: str, bands: Reference) -> dict[str, Any]:
    """A volume that is unlike the reference everywhere, and has no other fault."""
    return {**volume(name, 40.0, bands), "verdict": "other"}


@pytest.mark.parametrize(
    ("unlike", "of", "verdict", "text"),
    [(1, 1, "other", "x: other, 0 of 1 volume passes; 1 unlike the reference"), (3, 4, "other", "x: other, 1 of 4 volumes pass; 3 unlike"),
     (1, 16, "passes", "x: passes; 15 of 16 volumes pass; 1 outside, as many as real scans may be"),
     (0, 1, "passes", "x: passes; 1 of 1 volume passes")],
)  # fmt: skip
def test_a_generator_passes_only_where_its_report_says_that_its_volumes_do(
    bands: Reference, unlike: int, of: int, verdict: str, text: str
) -> None:
    volumes = [other(f"x-{i}", bands) if i < unlike else volume(f"x-{i}", 5.0, bands) for i in range(of)]
    found = {e["name"]: e for e in compare({**reports(bands, y=[5.0]), "x": {"volumes": volumes}}, bands)}["x"]
    assert found["verdict"] == verdict
    assert found["text"].startswith(text)
    assert (found["passed"], found["other"], found["condemned"]) == (of - unlike, unlike, 0)


@pytest.mark.parametrize(("volumes", "known"), [(1, False), (FEWEST - 1, False), (FEWEST, True)])
def test_resampling_few_volumes_says_nothing_of_the_order(bands: Reference, volumes: int, known: bool) -> None:
    first, _ = compare(reports(bands, a=[5.0] * volumes, b=[40.0] * 16), bands)
    assert (first["ahead_of_next"] is not None) == known
    assert compare_page.FEWEST == FEWEST
