"""``volgen report --compare`` from folders to a ranking."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from volgen import cli
from volgen.commands.report.compare import compare, not_passed
from volgen.commands.report.names import named
from volgen.commands.report.report import report
from volgen.core.errors import UserError
from volgen.data.store import Store
from volgen.images import nifti


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory, blob_store: Path) -> Path:
    """Bands of the store, so that tests need not measure it again."""
    folder = tmp_path_factory.mktemp("bands")
    nifti.write(folder / "in" / "sub-1_T1w.nii.gz", Store.open(blob_store).read(Store.open(blob_store).records[0]))
    report(folder / "in", blob_store, folder / "out")
    return folder / "out" / "bands.json"


@pytest.fixture
def generators(tmp_path: Path, blob_store: Path) -> list[Path]:
    """Four heads of the store; the same with a bad axial slice; the same with axial slices of independent brightness."""
    store = Store.open(blob_store)
    volumes = [store.read(record) for record in store.records[:4]]
    rng = np.random.default_rng(0)
    for index, volume in enumerate(volumes):
        nifti.write(tmp_path / "in" / "good" / f"sub-{index}_T1w.nii.gz", volume)
    for index, volume in enumerate(volumes):
        wrong = volume.voxels.copy()
        wrong[:, :, 8] *= 0.2
        shuffled = volume.voxels * rng.uniform(0.5, 1.5, 16)
        for name, voxels in (("slice", wrong), ("independent", shuffled)):
            volume.voxels[...] = voxels
            nifti.write(tmp_path / "in" / name / f"sub-{index}_T1w.nii.gz", volume)
    return [tmp_path / "in" / name for name in ("independent", "good", "slice")]


def test_generators_are_ranked_and_each_has_its_report(generators: list[Path], bands: Path, tmp_path: Path) -> None:
    words = [str(generators[0]), f"real people={generators[1]}", str(generators[2])]
    found = compare(words, bands, tmp_path / "out")
    assert found.order[0] == "real people"
    assert found.order[-1] == "independent"
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"compare.html", "compare.json", "bands.json", "manifest.json", "generators"}
    content = json.loads((out / "compare.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert [entry["rank"] for entry in content["generators"]] == [1, 2, 3]
    best, _, last = content["generators"]
    assert (best["verdict"], last["verdict"]) == ("passes", "condemned")
    assert re.match(r"independent: condemned, 4 of 4 volumes; along S in [2-4] of 4 it ", last["text"])
    assert last["distance"]["interval"][0] > best["distance"]["interval"][1]
    assert last["axes"]["S"]["value"] > 2 * max(last["axes"]["A"]["value"], last["axes"]["R"]["value"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["stage"] == "report --compare"
    assert set(manifest["inputs"]["samples"]) == {"real people", "slice", "independent"}
    assert (
        str(tmp_path) not in (out / "compare.html").read_text() + (out / "compare.json").read_text() + (out / "manifest.json").read_text()
    )
    # What stands under generators/ is what a report of its own would be.
    report(generators[2], bands, tmp_path / "alone")
    for name in ("report.html", "report.json", "slices.csv", "volumes.csv"):
        assert (out / "generators" / "slice" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    first = (out / "compare.html").read_bytes()
    compare(words, bands, out)  # another run is no error, and gives the same
    assert (out / "compare.html").read_bytes() == first


def test_the_page_names_verdicts_pictures_and_curves_of_all(generators: list[Path], bands: Path, tmp_path: Path) -> None:
    page = compare([str(path) for path in generators], bands, tmp_path / "out").page.read_text()
    for words in ("good: passes", "independent: condemned", 'href="generators/independent/report.html"'):
        assert words in page
    assert page.count("<svg") == 9
    assert page.count('class="curve g') == 27
    assert page.count('class="outline"') == 9  # three planes of three generators
    assert "://" not in page


def test_a_store_as_reference_gives_every_generator_its_own_cohort(generators: list[Path], blob_store: Path, tmp_path: Path) -> None:
    compare([str(path) for path in generators[:2]], blob_store, tmp_path / "out")
    cohorts = [entry["cohort"] for entry in json.loads((tmp_path / "out" / "compare.json").read_text())["generators"]]
    assert [cohort["count"]["generated"] for cohort in cohorts] == [4, 4]
    assert cohorts[0]["targets"] != cohorts[1]["targets"]
    assert "The volumes as cohorts" in (tmp_path / "out" / "compare.html").read_text()


def test_a_folder_of_something_else_and_another_comparison_are_not_overwritten(generators: list[Path], bands: Path, tmp_path: Path) -> None:
    words = [str(path) for path in generators[:2]]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        compare(words, bands, tmp_path / "foreign")
    compare(words, bands, tmp_path / "out")
    with pytest.raises(UserError, match="report on other volumes"):
        compare([*words, str(generators[2])], bands, tmp_path / "out")


def test_names_come_from_folders_or_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b=c", "d"):
        Path(name).mkdir()
    assert named(["a/", "b=c", "x=d"]) == {"a": Path("a/"), "b=c": Path("b=c"), "x": Path("d")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "1 folder; expected two or more"),
        (["a", "b/a"], "two are called 'a'"),
        (["a", "A=b"], "two are called 'A'"),
        (["a", "../x=b"], "no name that a folder can have"),
        (["a", ".x=b"], "no name that a folder can have"),
        (["a", "x="], "no name that a folder can have"),
        (["a", "<b>=b"], "no name that a folder can have"),
    ],
)
def test_names_that_cannot_be_are_explained(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        named(words)


def test_another_acquisition_counts_as_not_passed() -> None:
    assert not_passed({"passed": 1, "other": 2, "failed": 4, "unread": 8}) == 14


def test_the_command_line_takes_samples_or_several_generators(generators: list[Path], bands: Path, tmp_path: Path) -> None:
    several, rest = [str(path) for path in generators[:2]], ["--reference", str(bands), "--out"]
    assert cli.main(["report", *rest, str(tmp_path / "a"), "--compare", *several]) == 0
    assert cli.main(["report", "--compare", *several, "--strict", *rest, str(tmp_path / "b")]) == 1
    assert cli.main(["report", *rest, str(tmp_path / "c"), str(generators[1])]) == 0  # options may come first
    assert (tmp_path / "c" / "report.html").is_file()
    assert cli.main(["report", *rest, str(tmp_path / "d")]) == 2
    assert cli.main(["report", str(generators[1]), "--compare", *several, *rest, str(tmp_path / "d")]) == 2
    assert not (tmp_path / "d").exists()
    shutil.rmtree(generators[0])
    assert cli.main(["report", "--compare", *several, *rest, str(tmp_path / "e")]) == 2
