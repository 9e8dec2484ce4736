"""Small multiples: of each number a picture of people above generated volumes. SVG, for a page or a file."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from volgen.reporting.floors import ON_PAGE

COLUMNS, CELL, HEIGHT, MARGIN = 4, 160, 88, 10
KEY = 24
"""Height of the line that says which is which."""
LINES, LETTERS = 2, 27
"""Lines of a name, and letters in each, which fit into a cell."""
SIDES = (("real", "soft", 42, "people"), ("generated", "in", 60, "generated volumes"))


@dataclass(frozen=True)
class Boxes:
    """Boxes of percentiles, four to a row, each number on its own scale.

    Attributes:
        title: words for people who do not see it.
        numbers: entries of ``evaluation.json`` that have percentiles.
    """

    title: str
    numbers: Sequence[Mapping[str, Any]]

    def svg(self, colours: Mapping[str, str] = ON_PAGE) -> str:
        """The picture as an SVG that needs no style sheet but for its colours."""
        rows = -(-len(self.numbers) // COLUMNS)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * CELL} {KEY + rows * HEIGHT}" role="img" '
            f'aria-label="{escape(self.title)}"><title>{escape(self.title)}</title>'
        ]
        for place, (_, colour, _, words) in enumerate(SIDES):
            x = MARGIN + 70 * place
            parts.append(f'<rect x="{x}" y="7" width="14" height="10" fill="{colours["band"]}" stroke="{colours[colour]}"/>'
                         + _words(x + 20, 15, words, colours, "ink"))  # fmt: skip
        for place, number in enumerate(self.numbers):
            x, y = place % COLUMNS * CELL, KEY + place // COLUMNS * HEIGHT
            parts.append(f'<g transform="translate({x} {y})">{"".join(_cell(number, colours))}</g>')
        return "".join(parts) + "</svg>"


def _cell(number: Mapping[str, Any], colours: Mapping[str, str]) -> list[str]:
    everything = [value for side, _, _, _ in SIDES for value in number["percentiles"][side]]
    low, high = min(everything), max(everything)

    def x(value: float) -> float:
        return round(float(MARGIN + (value - low) / max(high - low, 1e-12) * (CELL - 2 * MARGIN)), 1)

    lines = textwrap.wrap(number["label"], LETTERS, max_lines=LINES, placeholder="…")
    parts = [_words(MARGIN, 16 + 12 * place, line, colours, "ink") for place, line in enumerate(lines)]
    parts += [_words(MARGIN, 80, f"{low:.3g}", colours, "soft"), _words(CELL - MARGIN, 80, f"{high:.3g}", colours, "soft", "end")]
    for side, colour, y, _ in SIDES:
        ends = [x(value) for value in number["percentiles"][side]]
        parts.append(
            f'<path d="M{ends[0]} {y}H{ends[4]}" stroke="{colours[colour]}" fill="none"/>'
            f'<rect x="{ends[1]}" y="{y - 5}" width="{max(ends[3] - ends[1], 1):.1f}" height="10" fill="{colours["band"]}" '
            f'stroke="{colours[colour]}"/><path d="M{ends[2]} {y - 5}v10" stroke="{colours[colour]}" stroke-width="2"/>'
        )
    return parts


def _words(x: float, y: float, text: str, colours: Mapping[str, str], colour: str, anchor: str = "start") -> str:
    style = escape(f"fill:{colours[colour]};font-size:9.5px;font-family:{colours['font']}")
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" style="{style}">{escape(text)}</text>'
