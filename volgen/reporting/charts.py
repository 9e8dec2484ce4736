"""Curves along an axis as inline SVG: small, sharp at every size, and coloured by the page's light or dark theme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 320, 120
LEFT, RIGHT, TOP, BOTTOM = 44, 6, 8, 18
Values = Sequence[float | None]
_Scale = Callable[[float], float]


@dataclass(frozen=True)
class Chart:
    """One curve of one volume along one axis.

    Attributes:
        title: words for people who do not see it.
        values: per slice; None where there is none.
        first: first slice with head.
        last: last slice with head.
        band: low, middle and high values of real volumes at equal steps from the first to the last slice; empty without a reference.
        marked: slices at fault, [first, last] each.
        lines: more curves, at the same equal steps as the band, each with the CSS classes that colour it.
    """

    title: str
    values: Values
    first: int
    last: int
    band: Sequence[Values] = ()
    marked: Sequence[tuple[int, int]] = ()
    lines: Sequence[tuple[str, Values]] = ()

    def svg(self) -> str:
        """The chart as an SVG picture."""
        known = [v for v in [*self.values, *(v for row in [*self.band, *(line for _, line in self.lines)] for v in row)] if v is not None]
        if not known or self.last <= self.first:
            return '<p class="none">nothing to draw: no head was found</p>'
        low, high = min(known), max(known)
        margin = 0.06 * (high - low) or 0.5
        low, high = max(low - margin, 0.0) if low >= 0 else low - margin, high + margin

        def x(place: float) -> float:
            return round(LEFT + (place - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT), 1)

        def y(value: float) -> float:
            return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

        parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}"><title>{escape(self.title)}</title>']
        for start, end in self.marked:
            left = x(max(start - 0.5, self.first))
            parts.append(f'<rect class="fault" x="{left}" y="{TOP}" width="{max(x(min(end + 0.5, self.last)) - left, 3):.1f}" '
                         f'height="{HEIGHT - TOP - BOTTOM}"/>')  # fmt: skip
        if self.band:
            steps = len(self.band[0]) - 1
            places = [self.first + i / steps * (self.last - self.first) for i in range(steps + 1)]
            lower, middle, upper = ([(x(p), y(v)) for p, v in zip(places, row, strict=True) if v is not None] for row in self.band)
            parts.append(f'<polygon class="band" points="{_points([*lower, *reversed(upper)])}"/>')
            parts.append(f'<polyline class="middle" points="{_points(middle)}"/>')
        for colour, line in self.lines:
            places = [self.first + i / (len(line) - 1) * (self.last - self.first) for i in range(len(line))]
            drawn = [(x(p), y(v)) for p, v in zip(places, line, strict=True) if v is not None]
            parts.append(f'<polyline class="curve {escape(colour)}" points="{_points(drawn)}"/>')
        parts += [f'<polyline class="curve" points="{_points(run)}"/>' for run in self._runs(x, y)]
        base = HEIGHT - BOTTOM
        parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>')
        for value in (low + margin / 2, (low + high) / 2, high - margin / 2):
            parts.append(f'<text x="{LEFT - 4}" y="{y(value) + 3}" text-anchor="end">{value:.2g}</text>')
        for place, anchor in ((self.first, "start"), ((self.first + self.last) // 2, "middle"), (self.last, "end")):
            parts.append(f'<text x="{x(place)}" y="{HEIGHT - 5}" text-anchor="{anchor}">{place}</text>')
        return "".join(parts) + "</svg>"

    def _runs(self, x: _Scale, y: _Scale) -> list[list[tuple[float, float]]]:
        """The curve in pieces without gaps."""
        runs: list[list[tuple[float, float]]] = [[]]
        for place, value in enumerate(self.values):
            if value is None:
                runs.append([])
            elif self.first <= place + 0.5 <= self.last:
                # A value compares a slice with the next one: it stands between them.
                runs[-1].append((x(place + 0.5), y(value)))
        return [run for run in runs if len(run) > 1]


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)
