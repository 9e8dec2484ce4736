"""Picture of the benchmark: how like the truth each row is, and whether its intervals hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from volgen.commands.bench.result import Row

ALIKE = "PSNR in the head (dB)"


def draw(rows: Sequence[Row], factors: Sequence[str], methods: Sequence[str], path: Path) -> None:
    """Writes the picture: one line of panels for each acceleration.

    Args:
        rows: what :func:`volgen.bench.reconstruct.run` returned.
        factors: accelerations as they are called in names of rows.
        methods: rows of the table, from the top on.
        path: where the picture goes.
    """
    by_name = {row.name: row.value for row in rows}
    figure = Figure(figsize=(9.0, (0.25 * len(methods) + 0.9) * len(factors)), layout="constrained")
    for line, factor in zip(figure.subplots(len(factors), 2, sharey=True, squeeze=False), factors, strict=True):
        for place, method in enumerate(methods):
            one, mean, share = (by_name.get(f"{factor} {method}: {name}") for name in ("sample PSNR", "PSNR", "coverage of 90 %"))
            if one is not None:
                line[0].plot(one, place, "o", mfc="none", color="C0", label="" if place < len(methods) - 1 else "one sample")
            if mean is not None:
                line[0].plot(mean, place, "o", color="C0", label="" if place < len(methods) - 1 else "mean of samples, or estimate")
            if share is not None:
                line[1].plot(share, place, "s", color="C1")
        line[0].set(yticks=range(len(methods)), yticklabels=methods, xlabel=ALIKE, title=factor)
        line[0].invert_yaxis()
        line[1].axvspan(0.87, 0.93, color="0.9", zorder=0)
        line[1].set(xlabel="coverage of intervals of 90 %", xlim=(0.0, 1.0), title=factor)
        line[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
