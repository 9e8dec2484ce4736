"""Arms of `volgen bench utility`: what is learnt from volumes, against plain linear algebra and cohorts whose answer is known."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from volgen.bench._shared.columns import Learnt
from volgen.bench._shared.learner import Learner, Pool, area, areas
from volgen.bench.utility.cohorts import asked_rows
from volgen.bench.utility.downstream import Labelled, Study, gaussian_of, people_worth, rare
from volgen.cli import main
from volgen.commands.participants.participants import participants
from volgen.commands.train.train import train
from volgen.data.store import Store
from volgen.recipe import load


def volumes(X: np.ndarray, target: np.ndarray, out: np.ndarray | None = None, kind: Any = "number") -> Pool:
    return Pool(X @ X.T, np.zeros((len(X), 0)) if out is None else out, target, kind)


def test_it_is_ridge_regression_on_principal_components_of_what_is_left() -> None:
    rng = np.random.default_rng(0)
    X, out, y = rng.normal(size=(30, 50)), rng.normal(size=(30, 1)), rng.normal(size=30)
    one, other = list(range(20)), list(range(20, 30))
    said = volumes(X, y, out).predicted(one, other, Learner(4, 0.5))
    S = np.column_stack([np.ones(30), out])
    effect = np.linalg.lstsq(S[:20], X[:20], rcond=None)[0]
    left = X - S @ effect
    _, singular, V = np.linalg.svd(left[:20], full_matrices=False)
    Z = left @ V[:4].T
    penalty = 0.5 * (singular[:4] ** 2).mean()
    weights = np.linalg.solve(Z[:20].T @ Z[:20] + penalty * np.eye(4), Z[:20].T @ (y[:20] - y[:20].mean()))
    assert said == pytest.approx(y[:20].mean() + Z[20:] @ weights, abs=1e-9)
    moved = volumes(X + 3.0, y, out).predicted(one, other, Learner(4, 0.5))
    assert moved == pytest.approx(said, abs=1e-7)  # so that centring on everybody is no look at anybody


def test_volumes_of_few_directions_are_no_division_by_nothing() -> None:
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 60))
    X = np.concatenate([flat, rng.normal(size=(10, 60))])
    said = volumes(X, np.arange(50.0)).predicted(range(40), range(40, 50), Learner(30, 0.01))
    assert np.abs(said).max() < 1e3
    same = volumes(np.ones((12, 5)), np.arange(12.0)).predicted(range(6), range(6, 12), Learner(3, 1.0))
    assert same == pytest.approx([2.5] * 6)


def test_what_size_says_is_taken_out() -> None:
    rng = np.random.default_rng(2)
    sex = np.repeat([-1.0, 1.0], 60)
    size = sex + 0.3 * rng.normal(size=120)
    X = np.outer(size, rng.normal(size=80)) + 0.05 * rng.normal(size=(120, 80))
    places = rng.permutation(120)
    one, other = places[:60].tolist(), places[60:].tolist()
    with_size, without = (volumes(X, sex, out, "words") for out in (None, size[:, None]))
    assert area(with_size.predicted(one, other, Learner(3, 0.1)), sex[other]) > 0.98
    assert abs(area(without.predicted(one, other, Learner(3, 0.1)), sex[other]) - 0.5) < 0.25


def test_the_area_counts_pairs_with_ties_and_weights() -> None:
    rng = np.random.default_rng(3)
    said, truth = rng.integers(0, 5, size=40).astype(float), np.sign(rng.normal(size=40))
    weights = rng.integers(0, 4, size=(3, 40))

    def expected(times: np.ndarray) -> float:
        second, first = (np.repeat(said, times * (truth == word)) for word in (1, -1))
        return float(mannwhitneyu(second, first).statistic) / (len(second) * len(first))

    assert area(said, truth) == pytest.approx(expected(np.ones(40, dtype=int)))
    assert areas(said, truth, weights.astype(float)) == pytest.approx([expected(row) for row in weights])
    assert area(said, np.ones(40)) == 0.5


def test_the_gaussian_has_the_mean_that_is_asked_for_and_the_covariance_of_the_rest() -> None:
    rng = np.random.default_rng(4)
    known = rng.normal(size=(400, 1))
    X = (0.5 + 0.03 * known @ rng.normal(size=(1, 3)) + 0.02 * rng.normal(size=(400, 3))).astype(np.float32)
    asked = np.full((4000, 1), 1.5)
    drawn = gaussian_of(X, known, asked, 0)
    S = np.column_stack([np.ones(400), known])
    effect = np.linalg.lstsq(S, X, rcond=None)[0]
    rest = X - S @ effect
    assert drawn.mean(axis=0) == pytest.approx(np.array([1, 1.5]) @ effect, abs=2e-3)
    assert np.cov(drawn.T) == pytest.approx(rest.T @ rest / 398, abs=3e-5)


def test_people_are_read_off_the_learning_curve() -> None:
    curve = [(0, 12.0), (20, 11.0), (40, 11.5), (60, 10.0)]
    assert [people_worth(score, curve, -1.0) for score in (13.0, 11.5, 10.5, 9.0)] == pytest.approx([0, 10, 50, 60])
    assert people_worth(0.75, [(0, 0.7), (10, 0.8)], 1.0) == pytest.approx(5)
    assert people_worth(0.75, [(0, 0.7), (10, 0.6)], 1.0) == 0


def study(drawn: str, seed: int = 0) -> dict[str, Any]:
    """Volumes in which age is seen in one direction; what is drawn is as true as people are, or has nothing of it."""
    rng = np.random.default_rng(seed)
    ways = rng.normal(size=(12, 200))

    def cohort(count: int, true: float = 1.0) -> Labelled:
        age, loadings = rng.uniform(20, 80, size=count), rng.normal(size=(count, 12))
        loadings[:, 0] = true * (age - 50) / 20
        X = (loadings @ ways + 0.5 * rng.normal(size=(count, 200))).astype(np.float32)
        return Labelled(X, np.zeros(count), age)

    made = {"run": cohort(60, {"true": 1.0, "nothing": 0.0}[drawn]), "gaussian": cohort(60)}
    of = Study.of("age", "number", cohort(60), cohort(50), made, publics=10, draws=4, without_size=False, width=10, seed=seed)
    return {row.name: row for row in of.rows()}


def test_true_volumes_close_the_gap_and_others_do_not() -> None:
    true, nothing = study("true"), study("nothing")
    assert true["age: public + real"].value < true["age: public"].value - 1 < true["age: shuffled"].value - 1
    assert true["age: public + run closes"].value > 0.7 and true["age: public + run is worth"].value > 15
    low, high = true["age: public + run gains"].interval or (0, 0)
    assert 0 < low < true["age: public + run gains"].value < high
    assert nothing["age: public + run closes"].value < 0.2 and nothing["age: public + run gains over gaussian"].value < 0
    assert true["age: chosen on run, rank correlation"].value > 0.7 > nothing["age: chosen on run, rank correlation"].value
    assert true["age: chosen on run, regret"].value >= 0


def test_those_in_the_emptiest_intervals_are_rare() -> None:
    protected = np.array([25.0] * 10 + [35.0] * 9 + [75.0])
    assert rare(protected, np.array([22.0, 38.0, 71.0, 99.0, 29.99]), 10).tolist() == [0, 0, 1, 1, 0]
    assert rare(protected, np.array([22.0, 38.0]), 100).tolist() == [0, 0], "all that there are is not rare"
    assert rare(np.array([-5.0, 5.0, 5.0, 5.0]), np.array([-1.0, 1.0]), 10).tolist() == [1, 0]


def test_an_even_cohort_helps_with_those_who_are_rare() -> None:
    """The old are seen in another direction than the young, and few of them are real."""
    rng = np.random.default_rng(6)
    ways = rng.normal(size=(6, 150))

    def cohort(count: int, old: float) -> Labelled:
        age = np.where(rng.uniform(size=count) < old, rng.uniform(60, 90, count), rng.uniform(20, 60, count))
        loadings = rng.normal(size=(count, 6))
        loadings[:, 0], loadings[:, 1] = np.minimum(age - 60, 0) / 20, np.maximum(age - 60, 0) / 10
        X = (loadings @ ways + 2.0 * rng.normal(size=(count, 150))).astype(np.float32)
        return Labelled(X, np.zeros(count), age)

    drawn = {"even": cohort(100, 0.5), "nobody old": cohort(100, 0.0)}
    study = Study.of(
        "age", "number", cohort(60, 0.06), cohort(60, 0.3), drawn, publics=10, draws=2, without_size=False, width=30, seed=0,
    )  # fmt: skip
    rows = {row.name.split(": ", 1)[1]: row for row in study.rows() if "rare" in row.name}
    low, high = rows["public + real + even gains"].interval or (0, 0)
    assert 0 < low < rows["public + real + even gains"].value < high
    assert rows["public + real + nobody old gains"].value < rows["public + real + even gains"].value / 2
    assert rows["public + real"].value > rows["public + real + even"].value


def test_who_is_judged_is_never_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[int], set[int]]] = []
    predicted = Pool.predicted

    def watch(self: Pool, learnt_from: Any, judged: Any, *rest: Any) -> Any:
        seen.append((set(learnt_from), set(judged)))
        return predicted(self, learnt_from, judged, *rest)

    monkeypatch.setattr(Pool, "predicted", watch)
    study("true")
    assert seen and all(not one & other for one, other in seen)
    # Settings are chosen without a look at what is true of those who are judged.
    rng = np.random.default_rng(5)
    some = volumes(rng.normal(size=(30, 9)), rng.normal(size=30))
    other = replace(some, target=np.where(np.arange(30) < 20, some.target, 99.0))
    assert some.chosen(range(20), 0) == other.chosen(range(20), 0)


def test_what_is_asked_for_is_even_over_public_people() -> None:
    rows = asked_rows([Learnt("age", ()), Learnt("sex", ("F", "M")), Learnt("group", ("a", "b"))], [], 8)
    assert {(row["sex"], row["group"]) for row in rows} == set(itertools.product("FM", "ab"))
    assert [row["sex"] for row in rows] == ["F", "M"] * 4


@pytest.fixture(scope="module")
def told_run(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("told")
    store = Path(shutil.copytree(blob_store, root / "store"))
    rows = [f"{record.patient}\t{30 + 3 * number}\t{'FM'[number % 2]}\tx" for number, record in enumerate(Store.open(store).records)]
    (root / "table.tsv").write_text("\n".join(["participant_id\tage\tsex\tsite", *rows]))
    participants(store, root / "table.tsv")
    content: dict[str, Any] = {
        "name": "run", "runs": str(root), "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2, "workers": 1},
        "schedule": {"kind": "karras", "points": 2, "sigma_min": 0.1, "sigma_max": 10.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "edm"},
        "conditions": [{"kind": "continuous", "column": "age"}, {"kind": "categorical", "column": "sex"}],
        "stopping": {"max_steps": 2, "min_steps": 2, "validation_volumes": 1, "validation_draws": 1},
    }  # fmt: skip
    return store, train(load(content))


def test_the_command_studies_columns_of_the_store(
    told_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    store, run = told_run
    words = ["bench", "utility", str(run), "--store", str(store), "--split", "train", "--volumes", "1", "--samples", "6", "--device", "cpu"]
    words += ["--public", "5", "--draws", "2", "--out", str(tmp_path / "u.json")]
    assert main([*words, "--target", "age", "--target", "sex", "--without-size", "sex"]) == 0
    names = [row["name"] for row in json.loads((tmp_path / "u.json").read_text())["rows"]]
    for arm in ("public", "public + real", "shuffled", "run", "public + run", "gaussian", "public + gaussian"):
        assert f"age: {arm}" in names and f"sex: {arm}" in names
    assert "| age: public + run closes |" in capsys.readouterr().out
    for more, message in (
        (["--target", "site"], "--target site: it has 1 different words"),
        (["--target", "agee"], "Did you mean 'age'?"),
        (["--target", "age", "--without-size", "sex"], "--without-size sex: is no target"),
        (["--target", "age", "--public", "50"], "'age' is known of"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
