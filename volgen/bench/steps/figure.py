"""Picture of a table of steps: distance and detail over evaluations of a network, one line per sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from volgen.commands.bench.result import Row

PANELS = (("distance", "Fréchet distance to unseen people"), ("detail", "fine detail (real people: 1)"))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes the picture; the suffix says in which format.

    Args:
        rows: what :func:`volgen.bench.steps.run` returned.
        path: where the picture goes.
    """
    by_name = {one.name: one for one in rows}
    settings = [one.name.removesuffix(" evaluations") for one in rows if one.name.endswith(" evaluations")]

    def cost(name: str) -> float:
        return by_name[f"{name} evaluations"].value

    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    for panel, (kind, label) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for sampler in dict.fromkeys(name.partition(",")[0] for name in settings):
            mine = sorted((name for name in settings if name.startswith(f"{sampler},")), key=cost)
            points = [by_name[f"{name} {kind}"] for name in mine]
            bars = [[abs(end - one.value) for end in one.interval or (one.value, one.value)] for one in points]
            x, y, spread = [cost(name) for name in mine], [one.value for one in points], list(zip(*bars, strict=True))
            panel.errorbar(x, y, yerr=spread, label=sampler, marker="o", ms=3, lw=1)
        real = by_name["real people"].value if kind == "distance" else 1.0
        panel.axhline(real, color="grey", ls="--", lw=1, label="real people")
        panel.set(xlabel="evaluations of a network for one volume", ylabel=label, xscale="log")
        panel.minorticks_off()
        ticks = sorted({2.0 ** round(math.log2(cost(name))) for name in settings})
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)
