"""Agreement and detection of readers: equal to the published programs, closed forms, and what has no answer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from volgen.evaluation.agreement import WEIGHTINGS, alpha, kappa
from volgen.evaluation.detection import detect
from volgen.evaluation.readings import MARKS, Bootstrap, Readings, each_mark, score

NAN = np.nan
KRIPPENDORFF = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
])  # fmt: skip


def marks(seed: int, readers: int = 3, volumes: int = 40, missing: float = 0.0) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    truth = random.integers(1, MARKS + 1, volumes)
    found = np.clip(truth + random.integers(-1, 2, (readers, volumes)), 1, MARKS).astype(float)
    found[random.random(found.shape) < missing] = NAN
    return found


@pytest.mark.parametrize("seed", range(20))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with `pip install volgen[test]`")
    one, other = marks(seed, 2)
    for weighting in WEIGHTINGS:
        theirs = metrics.cohen_kappa_score(one, other, labels=[1, 2, 3, 4, 5], weights=None if weighting == "none" else weighting)
        assert kappa(one, other, MARKS, weighting) == pytest.approx(theirs, abs=1e-12)


def test_kappa_of_a_table_by_hand() -> None:
    """Cohen 1960: 2 x 2 with 20, 5, 10, 15 of 50: observed 0.7, by chance 0.5."""
    one = [1] * 25 + [2] * 25
    other = [1] * 20 + [2] * 5 + [1] * 10 + [2] * 15
    assert kappa(one, other, 2, "none") == pytest.approx(0.4, abs=1e-12)
    assert kappa(one, [3 - mark for mark in one], 2, "quadratic") == pytest.approx(-1.0, abs=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_krippendorff(seed: int, missing: float) -> None:
    krippendorff = pytest.importorskip("krippendorff", reason="krippendorff comes with `pip install volgen[test]`")
    found = marks(seed, missing=missing)
    theirs = krippendorff.alpha(found, level_of_measurement="ordinal", value_domain=[1, 2, 3, 4, 5])
    assert alpha(found, MARKS) == pytest.approx(theirs, abs=1e-12)


def test_alpha_of_the_published_example() -> None:
    """Krippendorff 2011: 12 units, four observers."""
    assert alpha(KRIPPENDORFF, 5) == pytest.approx(0.815, abs=5e-4)


def test_a_volume_that_counts_twice_is_two_volumes_and_a_reader_who_counts_not_at_all_is_not_there() -> None:
    found = marks(3, missing=0.1)
    twice = np.ones(40)
    twice[7] = 2
    assert alpha(found, MARKS, volume_U=twice) == pytest.approx(alpha(np.hstack([found, found[:, 7:8]]), MARKS) or 0, abs=1e-12)
    assert alpha(found, MARKS, reader_R=np.array([1.0, 0.0, 1.0])) == pytest.approx(alpha(found[[0, 2]], MARKS) or 0, abs=1e-12)


def test_a_reader_who_is_drawn_twice_is_not_compared_with_themselves() -> None:
    """By chance alone: with themselves they would agree, and alpha of the draw would be far above 0."""
    random = np.random.default_rng(0)
    chance = random.integers(1, 6, (3, 4000)).astype(float)
    assert abs(alpha(chance, MARKS, reader_R=np.array([2.0, 1.0, 0.0])) or 1) < 0.03
    assert (alpha(np.vstack([chance[:1], chance[:2]]), MARKS) or 0) > 0.3
    assert alpha(chance, MARKS, reader_R=np.array([3.0, 0.0, 0.0])) is None


def test_what_is_all_alike_has_no_agreement_beyond_chance_and_says_so() -> None:
    five = np.full((3, 10), 5.0)
    assert all(kappa(five[0], five[1], MARKS, weighting) is None for weighting in WEIGHTINGS)
    assert alpha(five, MARKS) is None
    assert kappa([NAN], [1.0], MARKS, "none") is None and alpha(np.array([[1.0, NAN], [NAN, 2.0]]), MARKS) is None
    found = score(readings({"cortex": five}, np.arange(10) < 5), draws=50)["structures"]["cortex"]
    assert found["alpha"] == {"value": None, "interval": None, "draws": 0} and found["kappa"] == dict.fromkeys(WEIGHTINGS)
    assert found["same"] == 1.0 and found["equivalence"]["equivalent"] is True and found["difference"]["value"] == 0.0


def readings(found: dict[str, NDArray[np.float64]], generated: NDArray[np.bool_], confidence: Any = None, **more: Any) -> Readings:
    first = next(iter(found.values()))
    none = np.full(first.shape, NAN)
    again = dict.fromkeys(found, none)
    names = [f"reader {number}" for number in range(len(first))]
    given = {"again": again, "confidence_again_RU": none, "settled": {}, **more}
    return Readings(names, generated, found, confidence_RU=none if confidence is None else confidence, **given)


def test_d_prime_of_readers_whose_noise_is_known() -> None:
    """A reader who sees generated volumes 1.5 sd above real ones and says so above 0.3 has d' 1.5, and the area of two Gaussians."""
    random = np.random.default_rng(1)
    generated = np.arange(20000) % 2 == 0
    seen = random.normal(size=20000) + 1.5 * generated
    found = detect(seen - 0.3, generated)
    assert found is not None
    assert found.d_prime == pytest.approx(1.5, abs=0.04) and found.criterion == pytest.approx(0.3 - 0.75, abs=0.03)
    assert found.area == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.01)
    assert found.hits == pytest.approx(norm.cdf(1.2), abs=0.01) and found.false_alarms == pytest.approx(norm.cdf(-0.3), abs=0.01)


def test_the_area_counts_pairs_and_halves_ties_and_perfect_readers_have_a_finite_d_prime() -> None:
    confidence, generated = np.array([3.0, -1.0, -1.0, -4.0, 2.0, NAN]), np.array([True, True, False, False, False, True])
    found = detect(confidence, generated)
    assert found is not None
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product([3, -1], [-1, -4, 2])]
    assert found.area == pytest.approx(np.mean(pairs))
    perfect = detect(np.where(generated, 5.0, -5.0), generated)
    assert perfect is not None and perfect.area == 1.0 and perfect.d_prime == pytest.approx(2 * norm.ppf(3.5 / 4))
    counted = detect(confidence, generated, np.array([2.0, 1, 1, 1, 1, 1]))
    assert counted == detect(np.append(confidence, 3.0), np.append(generated, True))
    assert detect(confidence, np.ones(6, dtype=bool)) is None


def test_equivalence_needs_an_interval_inside_the_margin() -> None:
    generated = np.arange(80) < 40
    alike = {"cortex": marks(5, volumes=80)}
    alike["cortex"][:, 40:] = alike["cortex"][:, :40]  # real volumes with the same marks
    worse = {"cortex": np.where(generated, np.maximum(alike["cortex"] - 1, 1), alike["cortex"])}
    found = score(readings(alike, generated), draws=300)["structures"]["cortex"]
    assert found["difference"]["value"] == 0 and not found["equivalence"]["equivalent"], "+-1 of 40 volumes is too wide for 0.5"
    assert score(readings(alike, generated), draws=300, margin=1.5)["structures"]["cortex"]["equivalence"]["equivalent"]
    found = score(readings(worse, generated), draws=300)["structures"]["cortex"]
    low, high = found["difference"]["interval"]
    assert low < found["difference"]["value"] < high < 0 and not found["equivalence"]["equivalent"]


def test_intervals_hold_for_other_volumes_and_other_readers() -> None:
    """Readers who differ in how strict they are with generated volumes: with volumes alone drawn the interval would be far too narrow."""
    random = np.random.default_rng(2)
    generated = np.arange(60) < 30
    inside = 0
    for _ in range(60):
        strict = random.normal(0, 0.5, 6)
        found = {"cortex": 3 + random.normal(0, 0.5, 60) + random.normal(0, 0.3, (6, 60)) + np.outer(strict, generated)}

        def difference(reader: NDArray[np.float64], volume: NDArray[np.float64], m: NDArray[np.float64] = found["cortex"]) -> float:
            mean = reader @ m / reader.sum()
            return float(np.average(mean, weights=volume * generated) - np.average(mean, weights=volume * ~generated))

        interval = Bootstrap(readings(found, generated), 100, 0).of(difference).interval
        assert interval is not None
        inside += interval[0] < 0 < interval[1]
    assert 48 <= inside <= 60


def test_what_differs_is_to_be_talked_about_and_what_was_settled_is_the_reference() -> None:
    found = {"cortex": np.array([[1.0, 2, 5, 4], [3, 2, 4, NAN]]), "outline": np.array([[5.0, 5, 5, 5], [5, 5, 5, 1]])}
    generated = np.array([True, False, True, False])
    answer = score(readings(found, generated), draws=20)
    assert answer["adjudicate"] == [{"volume": 0, "structure": "cortex"}, {"volume": 3, "structure": "outline"}]
    assert answer["reference"] is None
    settled = {"cortex": np.array([3.0, NAN, NAN, NAN]), "outline": np.array([NAN, NAN, NAN, 1.0])}
    reference = score(readings(found, generated, settled=settled), draws=20)["reference"]
    # Cortex: 3, 2, then the lower of 5 and 4, and of one reader alone what he said.
    assert reference["reader 1"]["cortex"] == 1.0 and reference["reader 0"]["cortex"] == kappa([1, 2, 5, 4], [3, 2, 4, 4], 5, "quadratic")
    assert reference["reader 1"]["outline"] == 1.0 and reference["reader 0"]["outline"] == 0.0


def test_repeats_are_compared_with_the_first_time_and_rows_have_every_mark() -> None:
    found, again = {"cortex": marks(1)}, {"cortex": np.full((3, 40), NAN)}
    again["cortex"][:, :8] = found["cortex"][:, :8]
    again["cortex"][0, 0] = 6 - found["cortex"][0, 0]
    given = readings(found, np.arange(40) < 20, again=again)
    repeats = score(given, draws=20)["structures"]["cortex"]["repeats"]
    assert repeats["volumes"] == 24 and repeats["same"] == pytest.approx(23 / 24 if found["cortex"][0, 0] != 3 else 1.0)
    assert len(list(each_mark(given))) == 120 + 24 and ("reader 0", 0, True, "cortex", again["cortex"][0, 0]) in list(each_mark(given))
