"""``evaluation.html``: a cohort's numbers beside those of real people, made from ``evaluation.json`` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import volgen
from volgen.core import manifest
from volgen.core.files import make_folder, read_json, write_text
from volgen.evaluation.floor import DRAWS, FEWER_DRAWS
from volgen.reporting import page
from volgen.reporting.boxes import Boxes
from volgen.reporting.floors import ON_PAPER, FloorChart, label_of
from volgen.reporting.memory import MemoryChart
from volgen.reporting.tables import write_rows

METHOD = "Politis DN, Romano JP, Wolf M. Subsampling. Springer 1999."
"""What intervals come from."""
NAME, EVALUATION, NUMBERS, FIGURES = "evaluation.html", "evaluation.json", "numbers.csv", "figures"
PICTURES = f"{FIGURES}/volumes.png"
FILES = {NAME, EVALUATION, NUMBERS, FIGURES, manifest.NAME}


def write_page(directory: Path) -> Path:
    """Writes the page, ``numbers.csv`` and a figure of each comparison as SVG.

    Args:
        directory: holds ``evaluation.json``, and ``figures/volumes.png`` if volumes are to be shown.

    Returns:
        The page.

    Raises:
        UserError: ``evaluation.json`` is missing or damaged.
    """
    content = read_json(directory / EVALUATION, "the numbers of an evaluation")
    charts: dict[str, str] = {}
    multiples: dict[str, str] = {}
    make_folder(directory / FIGURES)
    for one in content["comparisons"]:
        if "by_people" in one["more"]:
            memory = MemoryChart(one["title"], one["more"]["by_people"], one["more"]["level"])
            charts[one["kind"]] = memory.svg()
            write_text(directory / FIGURES / f"{one['kind']}.svg", memory.svg(ON_PAPER))
        measured = [number for number in one["numbers"] if number["floor"]]
        if measured:
            chart = FloorChart(f"{one['title']}: generated volumes beside real people", measured)
            charts[one["kind"]] = chart.svg()
            write_text(directory / FIGURES / f"{one['kind']}.svg", chart.svg(ON_PAPER))
        several = [number for number in one["numbers"] if number["percentiles"]]
        if several:
            boxes = Boxes(f"{one['title']}: volumes beside people", several)
            multiples[one["kind"]] = boxes.svg()
            write_text(directory / FIGURES / f"{one['kind']}_multiples.svg", boxes.svg(ON_PAPER))
    write_rows(directory / NUMBERS, [row for one in content["comparisons"] for row in _rows(one, content["generated"]["volumes"])])
    html = page.template("evaluation.html.j2").render(
        content=content, charts=charts, multiples=multiples, outside=_outside(content), citation=citation(content),
        references=references(content), label_of=label_of,
        style=page.resource("style.css"), sorting=page.resource("sort.js"), figures=FIGURES, table=NUMBERS,
        pictures=page.picture(directory / PICTURES), made=_yaml(content["generated"].get("made")),
    )  # fmt: skip
    write_text(directory / NAME, html)
    return directory / NAME


def citation(content: Mapping[str, Any]) -> str:
    """A paragraph for the methods of a paper: what was compared with what, and how."""
    reference, volumes = content["reference"], content["generated"]["volumes"]
    edges = " x ".join(f"{edge:.3g}" for edge in reference["voxel_size"])
    numbers = [number for one in content["comparisons"] for number in one["numbers"] if number["floor"]]
    sides = numbers[0]["n"] if numbers else {"generated": 0, "real": 0}
    extractors = "; ".join(f"{one['name']} (SHA-256 {one['sha256'][:12]}: {one['layer']})" for one in content["extractors"].values())
    cohorts = f"{volumes} generated volumes were compared with {reference['people']} people ({edges} mm; {reference['trained']} trained on)"
    first = f"{sides['generated']} generated volumes against {sides['real']} people"
    return (
        f"{cohorts} by volgen {volgen.__version__} (volgen evaluate, seed {content['seed']}). Every number is the mean over {FEWER_DRAWS} "
        f"random partings of the people (for the first: {first}) and is given beside the band of the same number of as many real people "
        f"against real people ({DRAWS} partings without the smallest and the largest); intervals are 95 % half-sample bootstrap "
        f"intervals. Features: {extractors}."
    )


def references(content: Mapping[str, Any]) -> list[str]:
    """Where the comparisons that measured something were published, and the intervals."""
    measured = [one for one in content["comparisons"] if not one["skipped"]]
    return [*(one["paper"] for one in measured if one.get("paper")), METHOD] if measured else []


def _yaml(made: Mapping[str, Any] | None) -> str:
    return yaml.safe_dump(dict(made), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120) if made else ""


def _outside(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measured numbers that lie outside the band of real people, in the order of the page."""
    return [{**number, "title": one["title"]} for one in content["comparisons"] for number in one["numbers"] if number["inside"] is False]


def _rows(one: Mapping[str, Any], volumes: int) -> list[dict[str, Any]]:
    """A comparison's numbers, slopes on age and shares by the number of people, one in a row."""
    more = one["more"]
    rows = [_row(one["kind"], number, more.get("people", {}).get(number["name"])) for number in one["numbers"]]
    empty: dict[str, Any] = {"extractor": "", "inside": None, "words": "", "means": {}}
    for slopes in more.get("age", ()):
        sides = {side: slopes.get(side, {"people": 0, "slope": None, "interval": (None, None)}) for side in ("generated", "real")}
        real = sides["real"]
        number = {
            **empty, "name": f"age {slopes['name']}", "label": "Slope per ten years of age; floor and band: people's and its 95 % interval",
            "n": {side: found["people"] for side, found in sides.items()}, "value": sides["generated"]["slope"],
            "interval": sides["generated"]["interval"], "floor": {"mean": real["slope"], "band": real["interval"]},
        }  # fmt: skip
        rows.append(_row(one["kind"], number, None))
    for share in more.get("by_people", ()):
        number = {
            **empty, "name": f"people {share['people']}", "label": "Share of volumes nearer to so many trained-on people than people are",
            "n": {"generated": volumes, "real": share["people"]}, "value": share["share"], "interval": share["interval"],
            "floor": {"mean": more["level"], "band": (None, None)},
        }  # fmt: skip
        rows.append(_row(one["kind"], number, None))
    return rows


def _row(kind: str, number: Mapping[str, Any], people: Mapping[str, Any] | None) -> dict[str, Any]:
    floor, interval = number["floor"] or {"mean": None, "band": (None, None)}, number["interval"] or (None, None)
    middle = people or {"band": (None, None), "outside": None}
    return {
        "comparison": kind, "name": number["name"], "label": number["label"], "extractor": number["extractor"],
        **{f"n_{side}": number["n"].get(side) for side in ("generated", "real", "fitted")}, "value": number["value"],
        "interval_low": interval[0], "interval_high": interval[1], "floor": floor["mean"],
        "band_low": floor["band"][0], "band_high": floor["band"][1],
        "inside": "" if number["inside"] is None else int(number["inside"]), "words": number["words"],
        **{name: number["means"].get(name) for name in ("generated", "generated_sd", "real", "real_sd")},
        "people_low": middle["band"][0], "people_high": middle["band"][1], "volumes_outside": middle["outside"],
    }  # fmt: skip
