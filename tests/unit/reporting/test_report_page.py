"""The page, its charts and the tables: built from files, self-contained, and safe against hostile names."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from volgen.core.errors import UserError
from volgen.core.files import write_json
from volgen.reporting import figures, page, previews, tables
from volgen.reporting.charts import Chart
from volgen.reporting.page import write_page
from volgen.reporting.summary import summarise

HOSTILE = "sub-<b>&1"


def entry(name: str, *, failed: bool) -> dict[str, Any]:
    finding = {"check": "adjacent_l1", "metric": "adjacent_l1_spike", "axis": "S", "whole": False, "slices": [2, 3], "value": 3.0,
               "band": [1.0, 2.0],
               "text": "Axial slices 2-3: the volume jumps."}  # fmt: skip
    return {
        "name": name, "verdict": "fail" if failed else "pass", "score": 0.5 if failed else 1.0,
        "metrics": {"tv_ratio": {"S": 1.0, "A": None if failed else 1.0, "R": 1.0}}, "findings": [finding] if failed else [],
    }  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    volumes = [entry("sub-2", failed=False), entry(HOSTILE, failed=True)]
    band = [[0.1] * 41, [0.2] * 41, [0.3] * 39 + [None, None]]
    write_json(tmp_path / "bands.json", {"curves": {"adjacent_l1": dict.fromkeys("RAS", band)}})
    write_json(tmp_path / "report.json", {
        "reference": {"kind": "store", "name": "real.zarr", "subjects": 9, "split": "all",
                      "shape": [6, 6, 6], "voxel_size": [2.0, 2.0, 2.0],
                      "false_alarm": 0.05, "warnings": []},
        "summary": summarise(volumes, [], {"adjacent_l1_spike": "sharpest jump"}, None),
        "volumes": volumes, "unread": [{"name": "<i>x.nii", "reason": "is truncated"}],
        "metrics": {"tv_ratio": {"check": "total_variation", "label": "change", "whole": False, "bands": {a: [0.5, None] for a in "RAS"}}},
    })  # fmt: skip
    rows = [{"name": v["name"], "axis": a, "slice": z, "head_mm2": float(z > 0), "adjacent_l1": 0.2 if z < 5 else float("nan")}
            for v in volumes for a in "RAS" for z in range(6)]  # fmt: skip
    tables.write_slices(tmp_path, rows)
    for volume in volumes:
        plane = np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6)
        for axis in range(3):
            figures.write_plane(figures.file_of(tmp_path / figures.FOLDER, volume["name"], axis), plane, (2.0, 2.0, 2.0), axis)
    return tmp_path


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_the_page_needs_nothing_but_itself(directory: Path) -> None:
    text = write_page(directory).read_text()
    parser = _Links()
    parser.feed(text)
    assert parser.links
    assert all(link.startswith(("data:image/png;base64,", "#v")) for link in parser.links)
    assert not {"link", "iframe"} & set(parser.tags)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text  # and the browser sees to it


def test_names_are_escaped_and_failures_come_first(directory: Path) -> None:
    text = write_page(directory).read_text()
    assert "<b>&1" not in text
    assert "<i>x.nii" not in text
    assert "sub-&lt;b&gt;&amp;1" in text
    assert text.index("sub-&lt;b&gt;&amp;1</a>") < text.index("sub-2</a>")


def test_the_page_says_what_the_files_say(directory: Path) -> None:
    text = write_page(directory).read_text()
    for words in (
        "1 of 2 volumes pass",
        "sharpest jump along S (1 of 2)",
        "Axial slices 2-3: the volume jumps.",
        "is truncated",
        "real.zarr",
    ):
        assert words in text
    assert text.count("<svg") == 6  # one curve, three axes, two volumes
    assert text.count('class="fault"') == 1


def test_a_missing_file_is_named(directory: Path) -> None:
    (directory / "bands.json").unlink()
    with pytest.raises(UserError, match=r"bands\.json"):
        write_page(directory)


def test_a_chart_is_valid_svg_that_stays_in_its_frame() -> None:
    values = [None, 1.0, 5.0, None, 2.0, 3.0, None]
    svg = Chart("a < b & c", values, 1, 6, [[0.0] * 41, [1.0] * 41, [9.0] * 41], [(2, 3), (6, 6)]).svg()
    root = ET.fromstring(svg)
    assert root.find("title").text == "a < b & c"  # type: ignore[union-attr]
    curves = [e for e in root.iter("polyline") if e.get("class") == "curve"]
    assert len(curves) == 2  # a gap splits the curve
    for element in root.iter():
        for pair in element.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 320
            assert 0 <= y <= 120
    # 5 stands between slices 2 and 3, at (2.5 - 1) / 5 of the width.
    assert curves[0].get("points", "").split()[1].startswith(f"{44 + 0.3 * 270}")


def test_a_chart_without_a_head_says_so() -> None:
    assert "no head" in Chart("t", [None, None], 0, 0).svg()


def test_tables_have_one_row_each_and_leave_unknown_cells_empty(tmp_path: Path) -> None:
    tables.write_volumes(tmp_path, [entry("sub-1", failed=True), entry("sub-2", failed=False)])
    with (tmp_path / "volumes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {
        "name": "sub-1",
        "verdict": "fail",
        "score": "0.5",
        "findings": "1",
        "tv_ratio_S": "1",
        "tv_ratio_A": "",
        "tv_ratio_R": "1",
    }
    assert len(rows) == 2
    tables.write_slices(tmp_path, iter([{"name": "a", "x": float("nan")}, {"name": "b", "x": 1 / 3}]))
    assert (tmp_path / "slices.csv").read_text().splitlines() == ["name,x", "a,", "b,0.333333"]


def test_pictures_are_in_one_scale_of_millimetres_and_the_same_every_time(tmp_path: Path) -> None:
    shapes = ((5, 20), (5, 10), (20, 10))  # sagittal, coronal, axial of 10 x 20 x 5
    for axis, shape in enumerate(shapes):
        for name in "ab":
            figures.write_plane(figures.file_of(tmp_path, name, axis), np.full(shape, 0.5, dtype=np.float32), (2.0, 2.0, 4.0), axis)
        a, b = (figures.file_of(tmp_path, name, axis) for name in "ab")
        assert imread(a).shape[:2] == ((10, 20), (10, 10), (20, 10))[axis]  # 5 slices of 4 mm on a grid of 2 mm
        assert a.read_bytes() == b.read_bytes()
    assert [shown["width"] for shown in page.planes(tmp_path, "a", ".")] == [10, 10, 20]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{plane}.png" for name in "ab" for plane in ("axial", "coronal", "sagittal")
    }


@pytest.mark.parametrize(
    ("volumes", "headline"),
    [
        ([entry("a", failed=False)], "1 of 1 volume passes"),
        ([entry("a", failed=True)], "0 of 1 volume passes"),
        ([entry("a", failed=False), entry("b", failed=False)], "2 of 2 volumes pass"),
    ],
)
def test_headlines(volumes: list[dict[str, Any]], headline: str) -> None:
    assert summarise(volumes, [], {}, None)["headline"] == headline


def test_the_summary_tells_of_the_cohort() -> None:
    missed: dict[str, Any] = {"targets": [{"name": "background", "pass": False}, {"name": "volume z", "pass": True}]}
    assert "As a cohort: the background is not clean." in summarise([entry("a", failed=False)], [], {}, missed)["text"]
    met = {"targets": [{"name": "volume z", "pass": True}]}
    assert (
        "As a cohort they meet every target that could be measured on enough volumes."
        in summarise([entry("a", failed=False)], [], {}, met)["text"]
    )


def test_a_preview_is_small_keeps_its_place_and_is_the_same_every_time(tmp_path: Path) -> None:
    unit = np.zeros((230, 50, 40), dtype=np.float32)
    unit[120:123] = 1.0
    for name in "ab":
        previews.write_preview(tmp_path / f"{name}.nii.gz", unit, (1.0, 2.0, 3.0))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.shape == (77, 17, 14)  # blocks of 3
    assert image.header.get_zooms() == (3.0, 6.0, 9.0)
    assert previews.place_in_preview(unit.shape, [121, None, None]) == [121.5 / 231, 0.5, 0.5]
    assert np.asarray(image.dataobj)[int(121.5 / 231 * 77)].min() == 255
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_the_viewer_is_in_the_page_once_for_the_volumes_that_have_a_preview(directory: Path) -> None:
    unit = np.linspace(0, 1, 216, dtype=np.float32).reshape(6, 6, 6)
    previews.write_preview(directory / previews.FOLDER / f"{HOSTILE}.nii.gz", unit, (2.0, 2.0, 2.0))
    text = write_page(directory).read_text()
    assert text.count('type="text/plain" id="data-') == 1
    assert text.count("niivue={}") == 1
    # A comment or a script that begins inside a script would swallow the rest of the page.
    scripts = text.split("<script")[1:]
    assert len(scripts) == text.count("</script") == 5
    assert "<!--" not in text


def test_previews_that_do_not_fit_are_left_out_of_the_page_from_the_best_volume_upwards(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (HOSTILE, "sub-2"):
        previews.write_preview(directory / previews.FOLDER / f"{name}.nii.gz", np.ones((6, 6, 6), np.float32), (2.0, 2.0, 2.0))
        previews.write_mask(directory / previews.MASKS / f"{name}.nii.gz", np.ones((6, 6, 6), np.bool_), (2.0, 2.0, 2.0))
    assert write_page(directory).read_text().count('type="text/plain" id="data-') == 2
    sizes = [-(-(directory / folder / f"{HOSTILE}.nii.gz").stat().st_size // 3) * 4 for folder in (previews.FOLDER, previews.MASKS)]
    monkeypatch.setattr(page, "PREVIEW_BYTES", sum(sizes) + 1)
    text = write_page(directory).read_text()
    assert 'id="data-v0"' in text  # the one that fails
    assert 'id="mask-v0"' in text
    assert 'id="data-v1"' not in text
    assert 'data-volume="v1"' not in text  # nor a button that would find nothing


def test_the_gallery_shows_a_worst_slice_between_its_neighbours(directory: Path) -> None:
    report = json.loads((directory / "report.json").read_text())
    for volume in report["volumes"]:
        volume["shape"] = [6, 6, 6]
    failed = report["volumes"][1]
    failed["worst"] = {"axis": "S", "slice": 5, "placed": True, "text": "Axial slice 5: it jumps."}
    write_json(directory / "report.json", report)
    for z, level in ((4, 0.25), (5, 0.75)):
        path = figures.file_of(directory / figures.WORST, HOSTILE, 2, z)
        figures.write_plane(path, np.full((6, 6), level, np.float32), (2.0, 2.0, 2.0), 2)
    text = write_page(directory).read_text()
    gallery = text[text.index('id="gallery"') : text.index("Volume by volume")]
    assert gallery.count("<figure") == 1
    assert "Axial slice 5: it jumps." in gallery
    assert re.findall(r"<span>(?:<b>)?(\d+)(?:</b>)?</span>", gallery) == ["4", "5"]  # slice 5 is the last one
    assert "<b>5</b>" in gallery


def test_the_outline_lies_on_the_rim_of_the_mask(tmp_path: Path) -> None:
    mask = np.zeros((10, 10), np.bool_)
    mask[2:8, 3:7] = True
    figures.write_outline(tmp_path / "o.png", mask, (1.0, 1.0, 1.0), 2)
    opaque = imread(tmp_path / "o.png")[..., 3] > 0
    assert opaque.sum() == 2 * 6 + 2 * 2
    assert not opaque[3:7, 4:6].any()
    assert not (opaque & ~mask).any()


def test_a_mask_preview_is_the_rim_on_the_grid_of_the_preview(tmp_path: Path) -> None:
    mask = np.zeros((230, 60, 60), np.bool_)
    mask[60:180, 15:45, 15:45] = True
    previews.write_mask(tmp_path / "m.nii.gz", mask, (1.0, 1.0, 1.0))
    previews.write_preview(tmp_path / "p.nii.gz", mask.astype(np.float32), (1.0, 1.0, 1.0))
    rim, image = (nib.load(tmp_path / name) for name in ("m.nii.gz", "p.nii.gz"))
    assert rim.shape == image.shape
    assert np.array_equal(rim.affine, image.affine)
    levels = np.asarray(rim.dataobj)
    assert set(np.unique(levels)) == {0, 1}
    assert levels[20, 10, 10] == 1  # the end of it
    assert levels[40, 10, 10] == 0  # the middle


def test_a_chart_draws_a_line_for_each_generator() -> None:
    svg = Chart("t", [], 0, 100, [[0.0] * 41, [1.0] * 41, [2.0] * 41], lines=[("g0", [1.0] * 41), ("g1 dashed", [None] + [3.0] * 40)]).svg()
    lines = [e for e in ET.fromstring(svg).iter("polyline") if (e.get("class") or "").startswith("curve")]
    assert [e.get("class") for e in lines] == ["curve g0", "curve g1 dashed"]
    assert [len((e.get("points") or "").split()) for e in lines] == [41, 40]


@pytest.fixture
def pictured(directory: Path) -> Path:
    """The report with pictures for its first screen: both volumes and one real scan."""
    report = json.loads((directory / "report.json").read_text())
    report["beside"] = {"places": [0.35, 0.5, 0.65], "middle": 1, "generated": [HOSTILE, "sub-2"], "first": 1,
                        "real": [{"picture": "real 1", "text": "a scan with a head of median size"}],
                        "note": "Slices of 1 person."}  # fmt: skip
    write_json(directory / "report.json", report)
    for name in (HOSTILE, "sub-2", "real 1"):
        for axis in range(3):
            for place in range(3):
                path = figures.file_of(directory / figures.BESIDE, name, axis, place)
                figures.write_plane(path, np.full((6, 6), 0.5, np.float32), (2.0, 2.0, 2.0), axis)
    return directory


def test_the_first_screen_is_generated_beside_real_and_what_it_means_for_use(pictured: Path) -> None:
    text = write_page(pictured).read_text()
    first = text[text.index("<main>") : text.index("<h2>Volumes</h2>")]
    shown = re.findall(r'<div data-kind="(\w+)" data-index="(\d)" data-place="(\d)"( hidden)?>', first)
    assert len(shown) == 3 * 3
    assert [row[:3] for row in shown if not row[3]] == [("generated", "1", "1"), ("real", "0", "1")]
    assert first.index('data-kind="generated"') < first.index('data-kind="real"') < first.index("Can I use them?")
    assert "Slices of 1 person." in first
    for words in ("3D analysis", "One slice at a time", "In place of a cohort", "Diagnosis"):
        assert words in first
    for words in ("softer", "harsher", "Every number lies where", "the person&#39;s left"):  # the legend
        assert words in text.replace("person's", "person&#39;s")


def test_every_picture_has_the_letters_of_its_sides(pictured: Path) -> None:
    text = write_page(pictured).read_text()
    planes = re.findall(r'<span class="plane (\w+)".*?</span>', text, re.DOTALL)
    assert len(planes) == text.count('<img src="data:') == 3 * (9 + 2)
    letters = {"axial": "LRAP", "coronal": "LRSI", "sagittal": "PASI"}
    for kind, inside in re.findall(r'<span class="plane (\w+)"(.*?)</span>', text, re.DOTALL):
        assert "".join(re.findall(r"<i class=\"\w+\">(\w)</i>", inside)) == letters[kind]


def test_what_is_other_is_said_in_words() -> None:
    blurred = {**entry("a", failed=False), "verdict": "other",
               "findings": [{"metric": "tv_ratio", "value": 0.5, "band": [0.8, 1.2]}]}  # fmt: skip
    assert page.chip(blurred) == "other: softer"
    blurred["findings"] = [{"metric": "adjacent_ssim_mean", "value": 0.5, "band": [0.8, 1.0]}]
    assert page.chip(blurred) == "other: harsher"
    assert page.chip(entry("a", failed=True)) == "fail"


def answers(volumes: list[dict[str, Any]], cohort: dict[str, Any] | None = None) -> list[str]:
    return [row["answer"] for row in summarise(volumes, [], {}, cohort)["uses"]]


def test_uses_follow_from_the_verdicts() -> None:
    good, bad = entry("a", failed=False), entry("b", failed=True)
    elsewhere = {**bad, "findings": [*bad["findings"], {**bad["findings"][0], "axis": "A"}]}
    other = {**good, "verdict": "other", "findings": [{**bad["findings"][0], "level": "other"}]}
    assert answers([good]) == ["yes", "yes", "yes", "unknown", "unknown", "no"]
    assert answers([bad])[:3] == ["no", "some", "no"]  # its axial slices are whole
    assert answers([elsewhere])[:3] == ["no", "no", "no"]
    assert answers([good, bad])[:3] == ["some", "some", "some"]
    assert answers([other])[:3] == ["yes", "yes", "no"]
    count = {"generated": 8, "real_validation": 8, "real_train": 40}
    met = {"count": count, "targets": [{"name": "MS-SSIM difference", "label": "likeness", "pass": True},
                                       {"name": "nearest training: MS-SSIM", "label": "nearest", "pass": True}]}  # fmt: skip
    assert answers([good] * 8, met)[3:] == ["yes", "unknown", "no"]
    assert answers([good] * 7, {**met, "count": {**count, "generated": 7}})[3] == "unknown"
    copied = {"count": count, "targets": [{**met["targets"][1], "pass": False}]}
    assert answers([good] * 8, copied)[3:5] == ["no", "no"]


@pytest.mark.parametrize(
    ("generated", "real", "told"),
    [(1, 3, ["1 volume is few", "for: likeness. From 8", "Frechet"]), (8, 25, ["8 volumes are few", "Frechet"]),
     (20, 24, ["Frechet"]), (25, 25, [])],
)  # fmt: skip
def test_numbers_of_too_few_volumes_are_warned_of_with_both_sides(generated: int, real: int, told: list[str]) -> None:
    cohort = {"count": {"generated": generated, "real_validation": real, "real_train": 40},
              "targets": [{"name": "MS-SSIM difference", "label": "likeness", "pass": True}]}  # fmt: skip
    few = summarise([entry("a", failed=False)] * generated, [], {}, cohort)["few"]
    assert len(few) == len(told)
    assert all(words in sentence for words, sentence in zip(told, few, strict=True))
    assert all(f"({generated} generated, {real} unseen real)" in sentence for sentence in few if "share" not in sentence)
    low, high = summarise([entry("a", failed=False)], [], {}, None)["interval"]
    assert (low, high) == (0.025, 1.0)
