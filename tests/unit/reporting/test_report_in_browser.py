"""The pages in a real browser: they draw, sort, fit a phone, print, and ask the network for nothing."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

from volgen.core.files import write_json
from volgen.reporting import compare_page, figures, page, previews, tables
from volgen.reporting.summary import summarise

if TYPE_CHECKING:
    from typing import Any as Browser  # the class is in conftest.py, which tests do not import

pytestmark = pytest.mark.e2e
FEW, COUNT, EDGE, SIZE = 6, 20, 112, (2.0, 2.0, 2.0)
METRICS = {
    f"metric {m}": {"check": "c", "label": f"change number {m}", "whole": False, "bands": {a: [0.5, 2.0] for a in "RAS"}} for m in range(30)
}
BYTES, SECONDS = 25_000_000, 2.0


def worst(index: int) -> int:
    return 30 + 2 * index


def entry(index: int) -> dict[str, Any]:
    """Volumes fail at an axial slice of their own, the worse the smaller the index; every fifth passes."""
    z, failed = worst(index), index % 5 < 4
    text = f"Axial slice {z}: the volume has a slice that does not belong."
    finding = {
        "check": "adjacent_l1",
        "metric": "adjacent_l1_spike",
        "axis": "S",
        "whole": False,
        "slices": [z, z],
        "value": 3.0,
        "band": [1.0, 2.0],
        "text": text,
    }
    return {
        "name": f"sub-{index:04d}_T1w", "verdict": "fail" if failed else "pass", "score": round(0.2 + index / 25, 4),
        "findings": [finding] * (COUNT - index) if failed else [], "shape": [EDGE] * 3,
        "worst": {"axis": "S", "slice": z, "placed": True, "text": text} if failed else None,
        "metrics": {f"metric {m}": {"S": 3.0 if failed else 1.0, "A": 1.0, "R": 1.0} for m in range(30)},
    }  # fmt: skip


def head(index: int, edge: int = EDGE) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """An ellipsoid full of noise, which hardly compresses, with one black slice."""
    rng = np.random.default_rng(index)
    axes = np.meshgrid(*[np.linspace(-1, 1, edge)] * 3, indexing="ij")
    mask = (axes[0] / 0.6) ** 2 + (axes[1] / 0.75) ** 2 + (axes[2] / 0.65) ** 2 < 1
    unit = np.where(mask, rng.uniform(0.4, 0.9, mask.shape), 0).astype(np.float32)
    if edge == EDGE:
        unit[:, :, worst(index)] *= 0.1
    return unit, mask


def write_report(directory: Path, count: int = COUNT, edge: int = EDGE) -> Path:
    volumes = [entry(index) for index in range(count)]
    band = [[0.1] * 41, [0.2] * 41, [0.3] * 41]
    write_json(directory / page.BANDS, {"curves": {"adjacent_l1": dict.fromkeys("RAS", band), "adjacent_ssim": dict.fromkeys("RAS", band)}})
    write_json(directory / page.REPORT, {
        "reference": {"kind": "store", "name": "real.zarr", "subjects": 9, "split": "all", "shape": [EDGE] * 3, "voxel_size": list(SIZE),
                      "false_alarm": 0.05, "warnings": ["The reference is small (9 volumes)."]},
        "summary": summarise(volumes, [], {"adjacent_l1_spike": "sharpest jump"}, None), "volumes": volumes, "unread": [],
        "metrics": METRICS,
        "beside": {"places": [0.35, 0.5, 0.65], "middle": 1, "generated": [v["name"] for v in volumes[:2]], "first": 1,
                   "real": [{"picture": "real 1", "text": "a scan with a head of median size"}], "note": "Slices of 1 person."},
    })  # fmt: skip
    rows = ({"name": v["name"], "axis": a, "slice": z, "head_mm2": float(10 < z < 100), "adjacent_l1": 0.2 + z % 7 / 70,
             "adjacent_ssim": 0.2} for v in volumes for a in "RAS" for z in range(EDGE))  # fmt: skip
    tables.write_slices(directory, rows)
    for index, volume in enumerate(volumes):
        unit, mask = head(index, edge)
        for axis in range(3):
            plane, inside = (np.take(x, edge // 2, axis=axis).T[::-1] for x in (unit, mask))
            figures.write_plane(figures.file_of(directory / figures.FOLDER, volume["name"], axis), plane, SIZE, axis)
            figures.write_outline(figures.file_of(directory / figures.OUTLINES, volume["name"], axis), inside, SIZE, axis)
            for place in range(3 if index < 2 else 0):
                for name in (volume["name"], *(["real 1"] if not index else [])):
                    lopsided = np.where(np.arange(plane.shape[1]) < edge // 2, plane, 0.2 * plane)
                    figures.write_plane(figures.file_of(directory / figures.BESIDE, name, axis, place), lopsided, SIZE, axis)
        if volume["worst"]:
            for z in range(worst(index) - 1, worst(index) + 2):
                path = figures.file_of(directory / figures.WORST, volume["name"], 2, z)
                figures.write_plane(path, unit[:, :, z % edge].T[::-1], SIZE, 2)
        previews.write_preview(directory / previews.FOLDER / f"{volume['name']}.nii.gz", unit, SIZE)
        previews.write_mask(directory / previews.MASKS / f"{volume['name']}.nii.gz", mask, SIZE)
    return page.write_page(directory)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), FEW)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    generators = []
    for rank, name in enumerate(("real people", "a-generator-with-a-long-name", "independent"), 1):
        write_report(folder / compare_page.FOLDER / name, 3, 24)
        number = {"value": rank / 10, "interval": [rank / 20, rank / 5]}
        generators.append({
            "name": name, "rank": rank, "verdict": ("passes", "undecided", "condemned")[rank - 1], "text": f"{name}: words in 3 of 3",
            "volumes": 3, "condemned": rank, "passed": 3 - rank, "other": 0, "distance": number,
            "share_condemned": {"value": rank / 3, "interval": [0.0, 1.0]},
            "axes": dict.fromkeys("RAS", number), "reasons": [], "median_volume": "sub-0001_T1w", "ahead_of_next": 0.5, "unread": 0,
            "metrics": {f"metric {m}": {a: {"median": rank + m / 100, "interval": [0.5, 12.25], "distance": number} for a in "RAS"}
                        for m in range(30)}, "warnings": ["Stripped differently."], "folder": "",
        })  # fmt: skip
    content = {
        "reference": {"kind": "store", "name": "real.zarr", "subjects": 9, "split": "all", "shape": [EDGE] * 3, "voxel_size": list(SIZE),
                      "false_alarm": 0.05, "warnings": []},
        "generators": generators,
        "metrics": METRICS,
    }  # fmt: skip
    write_json(folder / compare_page.COMPARE, content)
    band = [[0.1] * 41, [0.2] * 41, [0.3] * 41]
    write_json(folder / page.BANDS, {"curves": {"adjacent_l1": dict.fromkeys("RAS", band)}})
    return compare_page.write_page(folder)


@pytest.fixture
def window(browser: Browser) -> Iterator[Browser]:
    """The browser; after the test it must have neither complained nor asked for anything but the page itself."""
    yield browser
    assert [entry["message"] for entry in browser.logs("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = browser.requests()
    assert len(asked) == 1, asked
    assert asked[0].startswith("file:")


def look(browser: Browser, report: Path, **size: Any) -> None:
    browser.open(report, **size)
    browser.wait("document.querySelector('.viewer')?.dataset.shown || document.querySelector('[data-failed]')")
    assert not browser.run("return document.querySelector('[data-failed]')?.textContent ?? ''")


def pixels(png: bytes) -> NDArray[np.float64]:
    return imread(io.BytesIO(png))[..., :3].astype(float)


def amber(picture: NDArray[np.float64]) -> int:
    """Pixels in the colour of the outline: much more red than blue, green between."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    return int(np.count_nonzero((red - blue > 0.25) & (green - blue > 0.12)))


def test_the_viewer_draws_the_worst_slice_of_the_worst_volume(window: Browser, report: Path) -> None:
    look(window, report)
    assert window.run("return document.querySelector('.viewer').closest('details').id") == "v0"
    assert window.run("return [...viewer.frac2vox(viewer.scene.crosshairPos)]")[2] == worst(0)
    # The axial tile is the first third: at the worst slice it is dark, two slices further on it is not.
    at_fault = pixels(window.picture(".viewer canvas"))
    axial = at_fault[:, : at_fault.shape[1] // 3].mean()
    assert at_fault.mean() > 0.05
    assert len(np.unique(at_fault)) > 50
    window.run(
        "const p = [...viewer.scene.crosshairPos]; p[2] += 2 / arguments[0]; viewer.scene.crosshairPos = p; viewer.drawScene()", EDGE
    )
    assert pixels(window.picture(".viewer canvas"))[:, : at_fault.shape[1] // 3].mean() > 2 * axial


def test_show_moves_the_viewer_to_another_volume(window: Browser, report: Path) -> None:
    look(window, report)
    window.run("document.querySelectorAll('#gallery .go')[3].click()")
    window.wait("document.querySelector('.viewer').dataset.shown.startsWith('v3 ')")
    assert window.run("return [...viewer.frac2vox(viewer.scene.crosshairPos)]")[2] == worst(3)
    assert window.run("return document.querySelector('#v3').contains(document.querySelector('.viewer'))")


def test_a_volume_asked_for_before_the_first_is_there_is_shown_and_the_viewer_lives(window: Browser, report: Path) -> None:
    window.open(report)
    # Clicks while the first volume, or the viewer itself, is still on its way: only the last one counts.
    window.run("for (const n of [1, 2, 3]) document.querySelectorAll('#gallery .go')[n].click()")
    window.wait("document.querySelector('.viewer')?.dataset.shown?.startsWith('v3 ') || document.querySelector('[data-failed]')")
    assert window.run("return document.querySelectorAll('[data-failed]').length") == 0
    assert window.run("return viewer.volumes.length") == 2  # one volume and its outline
    assert pixels(window.picture(".viewer canvas")).mean() > 0.05
    window.run("for (const n of [0, 1, 2]) document.querySelectorAll('#gallery .go')[n].click()")
    window.wait("document.querySelector('.viewer').dataset.shown.startsWith('v2 ')")
    assert window.run("return [...viewer.frac2vox(viewer.scene.crosshairPos)]")[2] == worst(2)
    # A failure is said, and the next click tries again.
    window.run("""const real = viewer.loadFromArrayBuffer.bind(viewer);
        viewer.loadFromArrayBuffer = (...a) => { viewer.loadFromArrayBuffer = real; throw new Error("no memory"); };
        document.querySelectorAll('#gallery .go')[0].click()""")
    window.wait("document.querySelector('[data-failed]')")
    assert window.run("return document.querySelector('.trouble').textContent") == "This volume could not be shown: no memory"
    window.run("document.querySelectorAll('#gallery .go')[1].click()")
    window.wait("document.querySelector('.viewer').dataset.shown.startsWith('v1 ') && !document.querySelector('[data-failed]')")
    assert window.run("return document.querySelector('.trouble').hidden")


def test_the_side_of_the_persons_left_is_switched_in_pictures_letters_and_viewer_and_remembered(window: Browser, report: Path) -> None:
    look(window, report)
    place = "#beside [data-kind=generated]:not([hidden]) .axial"
    halves = """const box = document.querySelector(arguments[0]).getBoundingClientRect(), side = (name) =>
        document.querySelector(arguments[0] + ' .' + name).getBoundingClientRect();
        return [side('west').left - box.left < box.width / 2, side('east').left - box.left < box.width / 2]"""

    def brighter_half() -> str:
        picture = pixels(window.picture(place))
        middle = picture.shape[1] // 2
        return "left" if picture[:, :middle].mean() > picture[:, middle:].mean() else "right"

    assert (brighter_half(), window.run(halves, place)) == ("left", [True, False])
    assert window.run("return viewer.opts.isRadiologicalConvention") is False
    window.run("document.querySelector('input[value=radiological]').click()")
    assert (brighter_half(), window.run(halves, place)) == ("right", [False, True])
    assert window.run("return viewer.opts.isRadiologicalConvention") is True
    sagittal = place.replace("axial", "sagittal")
    assert window.run("return getComputedStyle(document.querySelector(arguments[0] + ' img')).transform", sagittal) == "none"
    look(window, report)  # opened again
    assert window.run("return document.querySelector('input[value=radiological]').checked")
    assert (brighter_half(), window.run(halves, place)) == ("right", [False, True])
    assert window.run("return viewer.opts.isRadiologicalConvention") is True
    window.run("document.querySelector('input[value=neurological]').click()")
    assert brighter_half() == "left"


def test_the_first_screen_compares_what_is_chosen(window: Browser, report: Path) -> None:
    window.open(report, width=1400, height=900)
    shown = """return [...document.querySelectorAll('#beside [data-kind]:not([hidden])')].map((e) => [e.dataset.kind, e.dataset.index,
        e.dataset.place])"""
    assert window.run(shown) == [["generated", "1", "1"], ["real", "0", "1"]]
    on_screen = """const seen = [...document.querySelectorAll('#beside img')].filter((e) => e.checkVisibility());
        return [seen.length, seen.every((e) => e.getBoundingClientRect().bottom < 900)]"""
    assert window.run(on_screen) == [6, True]
    window.run("""const s = document.querySelector('[name=generated]'); s.value = "0";
        s.dispatchEvent(new Event("change", { bubbles: true }));
        document.querySelectorAll('[name=place]')[2].click()""")
    assert window.run(shown) == [["generated", "0", "2"], ["real", "0", "2"]]


def test_the_outline_of_the_head_can_be_switched_off(window: Browser, report: Path) -> None:
    look(window, report)
    seen = [amber(pixels(window.picture(place))) for place in (".viewer canvas", "#v0 .layers")]
    window.run("document.getElementById('outline').click()")
    hidden = [amber(pixels(window.picture(place))) for place in (".viewer canvas", "#v0 .layers")]
    assert min(seen) > 100
    assert max(hidden) < 10


def test_the_table_sorts_by_numbers_and_words(window: Browser, report: Path) -> None:
    look(window, report)
    column = "return [...document.querySelector('#volumes').tBodies[0].rows].map((r) => r.cells[arguments[0]].textContent)"
    press = "document.querySelector('#volumes').tHead.rows[0].cells[arguments[0]].querySelector('button').click()"
    before = window.run(column, 3)
    window.run(press, 3)
    rising = [int(cell) for cell in window.run(column, 3)]
    assert rising == sorted(int(cell) for cell in before)
    assert rising != [int(cell) for cell in before]
    assert window.run("return document.querySelector('#volumes').tHead.rows[0].cells[3].ariaSort") == "ascending"
    window.run(press, 3)
    assert [int(cell) for cell in window.run(column, 3)] == rising[::-1]
    window.run(press, 0)
    assert window.run(column, 0) == [f"sub-{i:04d}_T1w" for i in range(FEW)]


TOO_WIDE = """return [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll") && e.getClientRects().length
  && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 80))"""


def test_nothing_is_wider_than_a_phone(window: Browser, report: Path) -> None:
    look(window, report, width=390, height=844)
    assert window.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    assert window.run(TOO_WIDE) == []


def luminance(colour: str) -> float:
    red, green, blue = (float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("which", ["report", "comparison"])
def test_both_schemes_can_be_read(window: Browser, which: str, dark: bool, request: pytest.FixtureRequest) -> None:
    window.open(request.getfixturevalue(which), dark=dark)
    colours = """const words = [...document.querySelectorAll("h1, p, td, th, .chip, .soft, figcaption, a")];
    return words.filter((e) => e.checkVisibility()).map((e) => {
      let under = e;
      while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)") under = under.parentElement;
      return [e.className + " " + e.textContent.slice(0, 20), getComputedStyle(e).color, getComputedStyle(under).backgroundColor];
    })"""
    found = window.run(colours)
    assert len(found) > 30
    for what, ink, paper in found:
        lighter, darker = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (what, ink, paper)  # WCAG 2, AA
    assert (luminance(window.run("return getComputedStyle(document.body).backgroundColor")) < 0.05) == dark


def test_the_page_prints_what_fails_and_no_viewer(window: Browser, large: Path, tmp_path: Path) -> None:
    look(window, large, dark=True)
    (tmp_path / "report.pdf").write_bytes(window.pdf())
    if not shutil.which("pdftotext"):
        pytest.skip("needs pdftotext (poppler-utils) to read what was printed")
    text = subprocess.run(["pdftotext", tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True).stdout
    assert 2 <= text.count("\f") <= 60
    text = " ".join(text.split())
    assert "4 of 20 volumes pass" in text
    assert "The reference is small" in text
    # The last volume that fails is folded on the screen, and printed with its charts; one that passes stays folded.
    assert text.count(f"Axial slice {worst(18)}: the volume has a slice that does not belong.") >= 2
    assert text.count("Likeness of neighbouring slices") == 16
    assert window.run("return [...document.querySelectorAll('details.card[open]')].length") == 3


@pytest.mark.parametrize("which", ["report", "comparison"])
def test_tables_are_as_wide_as_the_paper(window: Browser, which: str, request: pytest.FixtureRequest) -> None:
    window.open(request.getfixturevalue(which), width=718)  # A4 without its margins, at 96 pixels to the inch
    window.devtools("Emulation.setEmulatedMedia", media="print")
    assert window.run("return document.querySelectorAll('main table').length") >= 2
    assert (
        window.run("return [...document.querySelectorAll('main table')].map((e) => e.getBoundingClientRect().right).filter((x) => x > 718)")
        == []
    )


def test_a_report_of_20_volumes_is_small_and_opens_at_once(window: Browser, large: Path) -> None:
    assert large.stat().st_size < BYTES
    assert large.read_text().count('type="text/plain" id="data-') == COUNT
    window.devtools("Performance.enable")

    def spent() -> float:
        """Processor time of the page's process so far, in seconds, which other work on the machine does not lengthen."""
        return next(m["value"] for m in window.devtools("Performance.getMetrics")["metrics"] if m["name"] == "ProcessTime")

    loads = []
    for _ in range(3):
        before = spent()
        window.open(large)
        window.wait("document.readyState === 'complete' && performance.getEntriesByName('first-contentful-paint').length")
        loads.append(spent() - before)
    print(f"processor time until the page can be read: {[round(load, 2) for load in loads]} s; {large.stat().st_size / 1e6:.1f} MB")
    assert 0.05 < min(loads) < SECONDS
    window.wait("document.querySelector('.viewer')?.dataset.shown")


def test_a_comparison_sorts_fits_a_phone_and_links_to_the_reports(window: Browser, comparison: Path) -> None:
    window.open(comparison, width=390, height=844)
    assert window.run("return document.documentElement.scrollWidth") == 390
    assert window.run(TOO_WIDE) == []
    names = "return [...document.querySelector('#ranking').tBodies[0].rows].map((r) => r.cells[1].textContent)"
    first = window.run(names)
    for _ in range(2):
        window.run("document.querySelector('#ranking').tHead.rows[0].cells[5].querySelector('button').click()")
    assert window.run(names) == first[::-1]
    links = window.run("return [...document.querySelectorAll('#ranking a')].map((a) => a.getAttribute('href'))")
    assert "generators/real%20people/report.html" in links
    assert all((comparison.parent / link.replace("%20", " ")).is_file() for link in links)
    assert window.run("return document.querySelectorAll('.charts svg .curve').length") == 9  # one curve, three axes, three generators
    assert amber(pixels(window.picture(".layers"))) > 5
    window.run("document.getElementById('outline').click()")
    assert amber(pixels(window.picture(".layers"))) == 0
