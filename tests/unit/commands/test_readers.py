"""A reader study from volumes to scores: nothing that readers get tells what is real, and answers come back whole."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from volgen.cli import main
from volgen.commands.readers.make import FOR_READERS, KEY, make, order_of
from volgen.commands.readers.montage import common_size, cut_slices, frames
from volgen.commands.readers.score import score_study
from volgen.core.errors import UserError
from volgen.data.store import Store
from volgen.images.volume import Volume
from volgen.reporting import readers_page

STRUCTURES = ("cortex", "ventricles")


@pytest.fixture(scope="module")
def samples(blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten volumes that differ from scans in unit, type and grain."""
    folder = tmp_path_factory.mktemp("made") / "unmistakable-name"
    folder.mkdir()
    store = Store.open(blob_store)
    for number, record in enumerate(store.records[:10]):
        volume = store.read(record)
        smooth = (1000.0 * volume.voxels.astype(np.float64) ** 1.1).astype(np.float32)
        nib.save(nib.Nifti1Image(smooth, volume.affine), folder / f"sub-{number:04d}_T1w.nii.gz")
    return folder


@pytest.fixture(scope="module")
def study(samples: Path, blob_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    make(samples, blob_store, out, count=8, repeats=0.25, readers=3, structures=STRUCTURES, slices=5, seed=3)
    return out


def answers(study: Path, reader: str, tell: Callable[[int, bool], dict[str, Any]]) -> dict[str, Any]:
    """What the page saves; ``tell`` is given the number of the volume and whether it is real."""
    key = json.loads((study / KEY).read_text())
    given = [{"volume": volume, "seconds": 1.5, **tell(volume, key["volumes"][volume]["real"])} for volume in key["readers"][reader]]
    return {"format": "volgen-readings", "version": 1, "study": key["study"], "reader": reader, "complete": True, "answers": given}


def saved(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_readers_get_one_file_in_which_volumes_differ_in_grey_levels_only(study: Path, samples: Path, blob_store: Path) -> None:
    assert [path.name for path in (study / FOR_READERS).iterdir()] == [readers_page.NAME]
    text = (study / FOR_READERS / readers_page.NAME).read_text()
    content, stacks = readers_page.read_study(study / FOR_READERS / readers_page.NAME)
    assert sorted(stacks) == list(range(16)) and len({len(stack) for stack in stacks.values()}) == 1
    assert len(base64.b64decode(stacks[0])) == sum(5 * plane["rows"] * plane["columns"] for plane in content["planes"])
    key = json.loads((study / KEY).read_text())
    words = {samples.name, blob_store.parent.name, "sub-", "T1w", "nii", str(study), "seed", *(one["name"] for one in key["volumes"])}
    page = re.sub(r'<script type="text/plain".*?</script>', "", text)  # by chance base64 may spell anything
    assert not [word for word in words if word in page]
    assert set(content) == {"marks", "structures", "slices", "readers", "asks", "planes", "study"}
    assert set(re.findall(r"<script type=\"text/plain\"([^>]*)>", text)) == {f' id="v{number}"' for number in range(16)}
    assert Counter(one["real"] for one in key["volumes"]) == {True: 8, False: 8}


def test_the_page_follows_from_grey_levels_and_order_alone(samples: Path, blob_store: Path, study: Path, tmp_path: Path) -> None:
    """The same volumes under other names, of other types and at other times: not a byte differs."""
    other = tmp_path / "another"
    other.mkdir()
    for number, path in enumerate(sorted(samples.iterdir())):
        image = nib.load(path)
        renamed = nib.Nifti1Image(image.get_fdata().astype(np.float64), image.affine)
        nib.save(renamed, other / f"person{number:02d}.nii")
    make(other, blob_store, tmp_path / "out", count=8, repeats=0.25, readers=3, structures=STRUCTURES, slices=5, seed=3)
    ours, theirs = ((folder / FOR_READERS / readers_page.NAME).read_bytes() for folder in (study, tmp_path / "out"))
    assert ours == theirs


def test_where_real_volumes_stand_is_chance(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    places: Counter[int] = Counter()
    for seed in range(12):
        out = tmp_path / str(seed)
        make(samples, blob_store, out, count=4, repeats=0.0, readers=1, structures=STRUCTURES, slices=3, seed=seed)
        key = json.loads((out / KEY).read_text())
        places.update(number for number, one in enumerate(key["volumes"]) if one["real"])
        assert sorted(key["readers"]["A"]) == list(range(8))
    assert sum(places.values()) == 48 and all(1 <= places[place] <= 11 for place in range(8))


def test_without_a_seed_nobody_can_make_the_same_order(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    keys = []
    for name in "ab":
        make(samples, blob_store, tmp_path / name, count=8, readers=1, structures=STRUCTURES, slices=3)
        keys.append(json.loads((tmp_path / name / KEY).read_text()))
    assert keys[0]["seed"] != keys[1]["seed"] and keys[0]["volumes"] != keys[1]["volumes"]


def test_every_reader_has_an_order_and_sees_the_same_volumes_twice_far_apart() -> None:
    twice = [1, 5, 9, 22, 31]
    orders = [order_of(40, twice, 7, reader) for reader in "ABC"]
    assert len({tuple(order) for order in orders}) == 3
    for order in orders:
        assert Counter(order) == Counter([*range(40), *twice])
        assert all(len(order) - 1 - order[::-1].index(number) - order.index(number) >= 10 for number in twice)
    assert order_of(40, twice, 7, "A") == orders[0]


def test_slices_are_upright_centred_and_of_one_size() -> None:
    """An ellipsoid off the centre, brighter on its left, at the front and at the top."""
    axes = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in (30, 36, 40)], indexing="ij")
    centre, radii = (12, 20, 17), (8, 10, 12)
    inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) < 1
    volume = np.where(inside, 300 - 6 * axes[0] + 6 * axes[1] + 6 * axes[2], 0).astype(np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    small = cut_slices(Volume(volume, affine), 5)
    large = cut_slices(Volume(np.pad(volume, 4).repeat(2, 0).repeat(2, 1).repeat(2, 2), affine), 5)
    size = common_size([small, large])
    assert size == (30 + 4, 38 + 4, 46 + 4)
    axial, coronal, sagittal = frames(small, size)
    assert (axial.shape, coronal.shape, sagittal.shape) == ((5, 42, 34), (5, 50, 34), (5, 50, 42))
    assert [plane.shape for plane in frames(large, size)] == [axial.shape, coronal.shape, sagittal.shape]
    for stack, left_is_bright in ((axial, True), (coronal, True), (sagittal, False)):
        middle = stack[2].astype(float)
        rows, columns = (np.flatnonzero(middle.any(axis=axis)) for axis in (1, 0))
        assert abs(rows[0] + rows[-1] - (middle.shape[0] - 1)) <= 1 and abs(columns[0] + columns[-1] - (middle.shape[1] - 1)) <= 1
        y, x = middle.shape[0] // 2, middle.shape[1] // 2
        assert (middle[y, x - 5] > middle[y, x + 5]) == left_is_bright
        assert middle[y - 5, x] > middle[y + 5, x]
    turned = Volume(volume, affine).reoriented("LPI")
    assert all(np.array_equal(a, b) for a, b in zip(cut_slices(turned, 5).stacks, small.stacks, strict=True))


def test_answers_become_scores_and_what_differs_is_shown_again(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = json.loads((study / KEY).read_text())
    volume = key["readers"]["A"][0]

    def tell(reader: int) -> Callable[[int, bool], dict[str, Any]]:
        def one(number: int, real: bool) -> dict[str, Any]:
            cortex = 1 if (number, reader) == (volume, 0) else 5
            return {"marks": {"cortex": cortex, "ventricles": 3 + number % 2}, "generated": not real, "confidence": 4}

        return one

    files = [saved(tmp_path / f"{name}.json", answers(study, name, tell(row))) for row, name in enumerate("AC")]
    found = score_study(study, files, tmp_path / "scores", draws=100)
    assert found["readers"] == ["A", "C"] and found["volumes"] == {"generated": 8, "real": 8}
    assert found["structures"]["ventricles"]["alpha"]["value"] == 1.0 and found["structures"]["cortex"]["alpha"]["value"] < 0.1
    assert found["detection"]["all"]["area"]["value"] == 1.0 and found["detection"]["readers"]["C"]["hits"] == 1.0
    assert found["adjudicate"] == [{"volume": volume, "structure": "cortex", "name": key["volumes"][volume]["name"]}]
    assert found["structures"]["ventricles"]["repeats"]["volumes"] == 2 * len(key["twice"]) == 8
    rows = (tmp_path / "scores" / "marks.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * (16 + 4) and rows[0] == "reader,volume,name,generated,again,structure,mark"
    html = (tmp_path / "scores" / "scores.html").read_text()
    assert "readers tell generated volumes from scans" in html
    content, stacks = readers_page.read_study(tmp_path / "scores" / "adjudication.html")
    assert content["readers"] == {"consensus": [volume]} and content["asks"] == {str(volume): {"cortex": {"A": 1, "C": 5}}}
    assert stacks == {volume: readers_page.read_study(study / FOR_READERS / readers_page.NAME)[1][volume]}

    agreed = {"format": "volgen-readings", "version": 1, "study": key["study"], "reader": "consensus", "answers": [
        {"volume": volume, "marks": {"cortex": 5}, "generated": None, "confidence": None}
    ]}  # fmt: skip
    final = score_study(study, [*files, saved(tmp_path / "consensus.json", agreed)], tmp_path / "scores", draws=100)
    assert final["reference"]["C"] == {"cortex": None, "ventricles": 1.0}, "every mark of the reference is a 5"
    assert final["reference"]["A"]["cortex"] == 0.0
    assert "agree on" in capsys.readouterr().err


def test_scores_of_files_are_those_of_scikit_learn_and_krippendorff(study: Path, tmp_path: Path) -> None:
    """From what pages save to scores.json, to 1e-12; marks, answers and a second look are missing here and there."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with `pip install volgen[test]`")
    krippendorff = pytest.importorskip("krippendorff", reason="krippendorff comes with `pip install volgen[test]`")
    random = np.random.default_rng(4)

    def tell(number: int, real: bool) -> dict[str, Any]:
        marks = {name: int(np.clip(2 + number % 3 + random.integers(-1, 2), 1, 5)) for name in STRUCTURES if random.random() < 0.9}
        said = bool(random.random() < (0.4 if real else 0.6))
        return {"marks": marks, "generated": said, "confidence": int(random.integers(1, 6))}

    given = {reader: answers(study, reader, tell) for reader in "ABC"}
    files = [saved(tmp_path / f"{reader}.json", content) for reader, content in given.items()]
    found = score_study(study, files, tmp_path / "scores", draws=20)
    generated = np.array([not one["real"] for one in json.loads((study / KEY).read_text())["volumes"]])
    marks = {(name, look): np.full((3, 16), np.nan) for name in STRUCTURES for look in (0, 1)}
    sure = np.full((2, 3, 16), np.nan)
    for row, content in enumerate(given.values()):
        looks: Counter[int] = Counter()
        for one in content["answers"]:
            look, volume = looks[one["volume"]], one["volume"]
            looks[volume] += 1
            sure[look, row, volume] = one["confidence"] * (1 if one["generated"] else -1)
            for name, mark in one["marks"].items():
                marks[name, look][row, volume] = mark

    def kappa(one: np.ndarray, other: np.ndarray, labels: list[int], weights: str | None = None) -> float:
        both = np.isfinite(one) & np.isfinite(other)
        return float(metrics.cohen_kappa_score(one[both], other[both], labels=labels, weights=weights))

    exactly = {"abs": 1e-12, "rel": 0}
    for name, score in found["structures"].items():
        first, again = marks[name, 0], marks[name, 1]
        assert np.isnan(first).any() and np.isfinite(again).sum() > 4
        alpha = krippendorff.alpha(first, level_of_measurement="ordinal", value_domain=[1, 2, 3, 4, 5])
        assert score["alpha"]["value"] == pytest.approx(alpha, **exactly)
        for weighting in ("none", "linear", "quadratic"):
            weights = None if weighting == "none" else weighting
            pairs = [kappa(one, other, [1, 2, 3, 4, 5], weights) for one, other in itertools.combinations(first, 2)]
            assert score["kappa"][weighting] == pytest.approx(np.mean(pairs), **exactly)
            repeats = kappa(first.ravel(), again.ravel(), [1, 2, 3, 4, 5], weights)
            assert score["repeats"]["kappa"][weighting] == pytest.approx(repeats, **exactly)
    detection = found["detection"]
    area = metrics.roc_auc_score(np.tile(generated, 3), sure[0].ravel())
    assert detection["all"]["area"]["value"] == pytest.approx(area, **exactly)
    for row, reader in enumerate("ABC"):
        assert detection["readers"][reader]["area"] == pytest.approx(metrics.roc_auc_score(generated, sure[0, row]), **exactly)
    said = [kappa(one > 0, other > 0, [0, 1]) for one, other in itertools.combinations(sure[0], 2)]
    assert detection["kappa"] == pytest.approx(np.mean(said), **exactly)


def test_a_study_is_made_once_and_others_are_refused(study: Path, samples: Path, blob_store: Path) -> None:
    before = (study / KEY).read_bytes()
    words = [samples, "--real", blob_store, "--out", study, "--count", 8, "--repeats", 0.25, "--structures", *STRUCTURES, "--slices", 5]
    assert main(["readers", "make", *map(str, words), "--seed", "3"]) == 0
    assert (study / KEY).read_bytes() == before
    assert main(["readers", "make", *map(str, words), "--seed", "4"]) == 2
    assert main(["readers"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": "0" * 16}, "is of study"),
        ({"reader": "Z"}, "is of reader 'Z'"),
        ({"format": "x"}, "another form"),
        ({"answers": []}, "not those of the study"),
        ({"mark": 6}, "with 6"),
        ({"mark": True}, "with True"),
        ({"confidence": 9}, "is sure to 9"),
    ],
)
def test_what_is_no_answer_is_refused_with_one_message(study: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    given = {"marks": {"cortex": change.pop("mark", 3)}, "generated": True, "confidence": change.pop("confidence", 1)}
    content = answers(study, "A", lambda number, real: given) | change
    with pytest.raises(UserError, match=message):
        score_study(study, [saved(tmp_path / "a.json", content)], tmp_path / "out", draws=100)
    assert not (tmp_path / "out").exists()


def test_what_was_not_answered_is_left_out(study: Path, tmp_path: Path) -> None:
    nothing = {"marks": {}, "generated": None, "confidence": None}
    seen = itertools.count()
    some = answers(study, "B", lambda number, real: {**nothing, "marks": {"cortex": 2}} if next(seen) < 3 else nothing)
    found = score_study(study, [saved(tmp_path / "b.json", some)], tmp_path / "out", draws=100)
    assert found["structures"]["ventricles"]["generated"] is None and found["detection"]["all"]["area"]["value"] is None
    assert found["structures"]["cortex"]["alpha"]["value"] is None, "one reader has nobody to agree with"
    with pytest.raises(UserError, match=r"as .* is"):
        score_study(study, [tmp_path / "b.json", tmp_path / "b.json"], tmp_path / "out", draws=100)
