"""Numbers of two cohorts as a picture (SVG): where each lies beside the band that real people have among themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, ROW, TOP, BOTTOM = 640, 22, 8, 40
NAMES, VALUES = 250, 84
"""Pixels for what stands to the left and to the right of the picture."""
REACH = math.asinh(40.0)
"""Ends of the axis: 40 half widths of a band; what lies farther out is drawn there."""
TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30)
AXIS = "half widths of the band of real people (shaded), from its middle"
ON_PAGE = {"band": "var(--band)", "ink": "var(--ink)", "soft": "var(--soft)", "in": "var(--curve)", "out": "var(--bad)", "font": "inherit"}
ON_PAPER = {
    "band": "#cfdcf2",
    "ink": "#1b2230",
    "soft": "#5b6474",
    "in": "#1d4ed8",
    "out": "#a61b29",
    "font": "Helvetica, sans-serif",
}


@dataclass(frozen=True)
class FloorChart:
    """Rows of numbers, each scaled so that its band goes from -1 to 1; the axis is an inverse hyperbolic sine.

    Attributes:
        title: words for people who do not see it.
        numbers: entries of ``evaluation.json`` that have a floor.
    """

    title: str
    numbers: Sequence[Mapping[str, Any]]

    def svg(self, colours: Mapping[str, str] = ON_PAGE) -> str:
        """The chart as an SVG picture that needs no style sheet but for its colours."""
        height = TOP + ROW * len(self.numbers) + BOTTOM
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(self.title)}">'
            f'<title>{escape(self.title)}</title>',
            f'<rect x="{_x(-1):.1f}" y="{TOP}" width="{_x(1) - _x(-1):.1f}" height="{ROW * len(self.numbers)}" fill="{colours["band"]}"/>',
        ]  # fmt: skip
        for row, number in enumerate(self.numbers):
            parts += _row(number, TOP + ROW * row + ROW / 2, colours)
        base = TOP + ROW * len(self.numbers)
        parts.append(f'<path d="M{NAMES} {base}H{WIDTH - VALUES}" stroke="{colours["soft"]}" fill="none"/>')
        for tick in TICKS:
            parts.append(f'<path d="M{_x(tick):.1f} {base}v4" stroke="{colours["soft"]}" fill="none"/>'
                         + _text(_x(tick), base + 15, str(tick), colours, "middle", "soft"))  # fmt: skip
        parts.append(_text(_x(0), base + 30, AXIS, colours, "middle", "soft"))
        return "".join(parts) + "</svg>"


def in_band_widths(number: Mapping[str, Any], value: float) -> float:
    """A value in half widths of the band of real people, from the middle of the band."""
    low, high = number["floor"]["band"]
    return (value - float(low + high) / 2) / max(float(high - low) / 2, 1e-12)


def label_of(number: Mapping[str, Any]) -> str:
    """What a number is called; effect sizes, which have means beside them, end in "d" (Cohen's), so that nobody takes one for the mean."""
    return f"{number['label']}, d" if "generated_sd" in number["means"] else str(number["label"])


def _row(number: Mapping[str, Any], y: float, colours: Mapping[str, str]) -> list[str]:
    colour = colours["in" if number["inside"] else "out"]
    parts = [_text(NAMES - 8, y + 3.5, _shortened(label_of(number)), colours, "end", "ink"),
             _text(WIDTH - VALUES + 8, y + 3.5, f"{number['value']:.3g}", colours, "start", "ink")]  # fmt: skip
    if number["interval"]:
        ends = [_x(in_band_widths(number, end)) for end in number["interval"]]
        parts.append(f'<path d="M{ends[0]:.1f} {y}H{ends[1]:.1f}" stroke="{colour}" stroke-width="2" fill="none"/>')
    place = _x(in_band_widths(number, number["value"]))
    return [*parts, f'<circle cx="{place:.1f}" cy="{y}" r="4" fill="{colour}"/>']


def _x(scaled: float) -> float:
    middle = (NAMES + WIDTH - VALUES) / 2
    half = (WIDTH - VALUES - NAMES) / 2 - 6
    return middle + half * max(-1.0, min(1.0, math.asinh(scaled) / REACH))


def _text(x: float, y: float, words: str, colours: Mapping[str, str], anchor: str, colour: str) -> str:
    style = f"fill:{colours[colour]};font-size:10px;font-family:{colours['font']}"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{escape(style)}">{escape(words)}</text>'


def _shortened(words: str, most: int = 46) -> str:
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"
