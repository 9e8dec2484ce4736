"""How many volumes are nearer to people that were trained on than people are, against the number of people, as a picture (SVG)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from volgen.reporting.floors import ON_PAGE

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 12, 42
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class MemoryChart:
    """Shares with their intervals over the number of people, which doubles from mark to mark.

    Attributes:
        title: words for people who do not see it.
        by_people: rows of ``more.by_people`` of the comparison ``memorisation``.
        level: share of volumes that know nobody.
    """

    title: str
    by_people: Sequence[Mapping[str, Any]]
    level: float

    def svg(self, colours: Mapping[str, str] = ON_PAGE) -> str:
        """The chart as an SVG picture that needs no style sheet but for its colours."""
        ends = [math.log2(self.by_people[place]["people"]) for place in (0, -1)]
        base = HEIGHT - BOTTOM

        def x(people: int) -> float:
            share = (math.log2(people) - ends[0]) / max(ends[1] - ends[0], 1e-12)
            return round(LEFT + 12 + share * (WIDTH - LEFT - RIGHT - 24), 1)

        def y(share: float) -> float:
            return round(base - share * (base - TOP), 1)

        def words(x: float, y: float, text: str, anchor: str) -> str:
            style = escape(f"fill:{colours['soft']};font-size:10px;font-family:{colours['font']}")
            return f'<text x="{x}" y="{y}" text-anchor="{anchor}" style="{style}">{escape(text)}</text>'

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}">'
            f'<title>{escape(self.title)}</title>',
            f'<path d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}" stroke="{colours["soft"]}" fill="none"/>',
            f'<path d="M{LEFT} {y(self.level)}H{WIDTH - RIGHT}" stroke="{colours["soft"]}" stroke-dasharray="4 3" fill="none"/>',
            words(WIDTH - RIGHT, y(self.level) - 4, "nobody is known", "end"),
            words((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "people on either side", "middle"),
        ]  # fmt: skip
        parts += [words(LEFT - 6, y(share) + 3.5, f"{share:g}", "end") for share in SHARES]
        for row in self.by_people:
            colour = colours["out" if row["interval"][0] > self.level else "in"]
            across, (low, high) = x(row["people"]), (y(end) for end in row["interval"])
            parts.append(
                f'<path d="M{across} {low}V{high}" stroke="{colour}" stroke-width="2" fill="none"/>'
                f'<circle cx="{across}" cy="{y(row["share"])}" r="4" fill="{colour}"/>'
                + words(across, base + 15, str(row["people"]), "middle")
            )
        return "".join(parts) + "</svg>"
