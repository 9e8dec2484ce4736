"""The page of ``volgen evaluate``, made from its numbers alone, and looked at in a real browser."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from volgen.core.files import write_json
from volgen.reporting import evaluation_page
from volgen.reporting.boxes import Boxes
from volgen.reporting.floors import ON_PAPER, FloorChart, in_band_widths
from volgen.reporting.memory import MemoryChart

if TYPE_CHECKING:
    from typing import Any as Browser  # the class is in conftest.py, which tests do not import

EVIL = "<script>x</script>"


def number(name: str, value: float | None, *, percentiles: bool = False, words: str = "") -> dict[str, Any]:
    """A number whose band is 1 to 3."""
    known = value is not None
    return {
        "name": name, "label": f"{name} {EVIL}", "extractor": "whole", "n": {"generated": 40, "real": 30, "fitted": 20}, "value": value,
        "interval": [value - 1, value + 1] if value is not None else None,
        "floor": {"mean": 2.0, "band": [1.0, 3.0], "draws": 99} if known else None,
        "inside": 1 <= value <= 3 if value is not None else None, "words": words,
        "means": {"generated": 1.0, "generated_sd": 0.5, "real": 2.0, "real_sd": 0.4} if percentiles else {},
        "percentiles": {"generated": [0.0, 1.0, 2.0, 3.0, 4.0], "real": [2.0, 3.0, 4.0, 6.0, 10.0]} if percentiles else {},
    }  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    slope = {"people": 20, "slope": 0.5, "interval": [0.25, 0.75]}
    comparisons = [
        {"kind": "anatomy", "title": "Anatomy", "skipped": "", "numbers": [number(f"share {i}", 2.0, percentiles=True) for i in range(9)],
         "more": {"people": {"share 0": {"band": [1.0, 2.0], "outside": 0.25}}, "age": [{"name": "share 0", "real": slope}]}},
        {"kind": "frechet", "title": "Frechet distance", "skipped": "", "more": {}, "paper": f"Heusel {EVIL}. 2017.",
         "numbers": [number("whole", 9.0), number("few", None, words="not measured: 3 volumes")]},
        {"kind": "memorisation", "title": "Memorisation", "skipped": "", "numbers": [], "more": {"trained": 8, "others": 9, "level": 0.05,
         "by_people": [{"people": 2, "share": 0.4, "interval": [0.2, 0.6], "below": 0.3}]}},
        {"kind": "tissue", "title": "Tissue", "skipped": "no head", "numbers": [], "more": {}, "paper": "Nobody. 1900."},
    ]  # fmt: skip
    write_json(tmp_path / "evaluation.json", {
        "generated": {"name": EVIL, "volumes": 40}, "seed": 7, "odd": {"planes.S": "volumes have different shapes"},
        "reference": {"name": "cohort.zarr", "fingerprint": "f", "split": "all", "people": 60, "trained": 50, "voxel_size": [1, 1, 1.2],
                      "shape": None},
        "extractors": {"whole": {"name": "components", "sha256": "ab" * 32, "layer": "24", "preprocessing": "window"}},
        "comparisons": comparisons,
    })  # fmt: skip
    return evaluation_page.write_page(tmp_path)


def test_the_page_has_every_number_and_no_word_of_others_is_code(page: Path) -> None:
    html = page.read_text()
    assert "40 generated volumes beside 60 people" in html
    assert EVIL not in html and "&lt;script&gt;" in html
    outside = html[html.index("Outside the band") : html.index("</ul>")]
    assert "whole" in outside and "share" not in outside
    assert "not measured: 3 volumes" in html and "planes.S was not compared: volumes have different shapes" in html and "no head." in html
    assert "25 %" in html and '<td class="n">0.5</td><td class="n">0.25 to 0.75</td><td class="n">-</td>' in html
    assert re.search(r'<td class="n">2</td><td class="n out">0.4</td>', html)
    citation = html[html.index('id="citation"') :]
    assert "seed 7" in citation and "1 x 1 x 1.2 mm" in citation and "abababababab" in citation
    assert "<li>Heusel &lt;script&gt;" in citation and "Politis" in citation and "Nobody" not in citation, "what was measured is cited"


def test_figures_and_numbers_can_be_taken_along(page: Path) -> None:
    names = {path.name for path in (page.parent / "figures").iterdir()}
    assert names == {"anatomy.svg", "anatomy_multiples.svg", "frechet.svg", "memorisation.svg"}
    for name in names:
        text = (page.parent / "figures" / name).read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg") and "var(" not in text
    with (page.parent / "numbers.csv").open() as stream:
        rows = {f"{row['comparison']}.{row['name']}": row for row in csv.DictReader(stream)}
    assert len(rows) == 13
    assert rows["frechet.whole"]["inside"] == "0" and rows["frechet.few"]["value"] == rows["frechet.few"]["inside"] == ""
    assert rows["anatomy.share 3"]["real_sd"] == "0.4" and rows["anatomy.share 3"]["volumes_outside"] == ""
    assert [rows["anatomy.share 0"][name] for name in ("people_low", "people_high", "volumes_outside")] == ["1", "2", "0.25"]
    slope, share = rows["anatomy.age share 0"], rows["memorisation.people 2"]
    assert [slope[name] for name in ("value", "floor", "band_low", "band_high", "n_real")] == ["", "0.5", "0.25", "0.75", "20"]
    assert [share[name] for name in ("value", "interval_low", "interval_high", "floor", "n_generated")] == [
        "0.4",
        "0.2",
        "0.6",
        "0.05",
        "40",
    ]


def test_an_effect_size_is_not_taken_for_a_mean(page: Path) -> None:
    html = page.read_text()
    assert html.count("share 0 &lt;script&gt;x&lt;/script&gt;, d") == 2 and "whole &lt;script&gt;x&lt;/script&gt;, d" not in html


def test_a_value_in_the_middle_of_its_band_is_drawn_in_the_middle_and_a_far_one_at_the_end() -> None:
    assert [in_band_widths(number("a", None) | {"floor": {"band": [1.0, 3.0]}}, value) for value in (1.0, 2.0, 3.0, 5.0)] == [-1, 0, 1, 3]
    svg = FloorChart("t", [number(str(value), value) for value in (2.0, 3.0, 900.0)]).svg(ON_PAPER)
    circles = [(float(x), colour) for x, colour in re.findall(r'<circle cx="([\d.]+)"[^>]*fill="([^"]+)"', svg)]
    band = re.search(r'<rect x="([\d.]+)" y="8" width="([\d.]+)"', svg)
    assert band
    left, width = map(float, band.groups())
    assert circles[0][0] == pytest.approx(left + width / 2, abs=0.11) and circles[1][0] == pytest.approx(left + width, abs=0.11)
    assert circles[2][0] == pytest.approx(640 - 84 - 6, abs=0.2) and [colour for _, colour in circles] == ["#1d4ed8", "#1d4ed8", "#a61b29"]


def test_small_multiples_share_the_scale_of_both_sides() -> None:
    svg = Boxes("t", [number("a", 2.0, percentiles=True)]).svg(ON_PAPER)
    lines = [tuple(map(float, found)) for found in re.findall(r'<path d="M([\d.]+) \d+H([\d.]+)"', svg)]
    assert lines == [(38.0, 150.0), (10.0, 66.0)], "people from 2 to 10, generated volumes from 0 to 4, on 0 to 10"


def test_a_long_name_has_two_lines_and_the_picture_says_which_is_which() -> None:
    name = "Share of Inferior-Lateral-Ventricle"
    svg = Boxes("t", [number("a", 2.0, percentiles=True) | {"label": name}]).svg(ON_PAPER)
    words = re.findall(r">([^<>]+)</text>", svg)
    assert words[:2] == ["people", "generated volumes"] and "".join(words[2:4]).replace(" ", "") == name.replace(" ", "")


def test_shares_that_are_above_the_level_are_red_and_people_double_from_mark_to_mark() -> None:
    rows = [{"people": 2**power, "share": 0.05 * power, "interval": [0.02 * power, 0.2 * power]} for power in range(1, 5)]
    svg = MemoryChart("t", rows, 0.05).svg(ON_PAPER)
    places = [(float(x), float(y), colour) for x, y, colour in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4" fill="([^"]+)"', svg)]
    steps = [b[0] - a[0] for a, b in itertools.pairwise(places)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2) and places[0][1] > places[3][1]
    assert [colour for _, _, colour in places] == ["#1d4ed8", "#1d4ed8", "#a61b29", "#a61b29"]


@pytest.mark.e2e
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_it_asks_for_nothing_and_fits_a_phone(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, width=390, height=800, dark=dark)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    colours = browser.run("return [document.querySelector('svg text'), document.body].map(one => getComputedStyle(one).fill)")
    assert colours[0] != "rgb(0, 0, 0)", "letters of figures have a colour of the scheme"
    assert [entry["message"] for entry in browser.logs("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.requests() == [page.resolve().as_uri()]
