"""The losses of a training as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from volgen.core.files import atomic_path

LABELLED = 12
"""More networks than these get colours by their place, and no legend."""


@dataclass
class Curve:
    """Losses of one network.

    Attributes:
        training: (step, loss) of training.
        validation: the same on validation volumes.
    """

    training: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Takes in what was measured after a step; what is no loss is left out."""
        for name, points in (("loss", self.training), ("validation_loss", self.validation)):
            if name in values:
                points.append((step, values[name]))


def write_curves(path: Path, curves: Mapping[str, Curve], title: str) -> bool:
    """Training and validation losses over steps, a colour for each network, as PNG.

    Args:
        path: the file.
        curves: losses of each network by its name.
        title: words above the picture.

    Returns:
        Whether there was anything to draw: a private run measures no losses.
    """
    drawn = {name: curve for name, curve in curves.items() if curve.training or curve.validation}
    if not drawn:
        return False
    figure = Figure(figsize=(9, 4), layout="constrained")
    plots = figure.subplots(1, 2, sharex=True)
    colours = colormaps["viridis"].resampled(max(len(drawn), 2))
    for place, (name, curve) in enumerate(drawn.items()):
        for plot, points, mark in ((plots[0], curve.training, ""), (plots[1], curve.validation, ".")):
            if points:
                plot.plot(*_columns(points), color=colours(place), marker=mark, linewidth=1, label=name)
    for plot, what in zip(plots, ("training loss", "validation loss (averaged weights)"), strict=True):
        plot.set(xlabel="step of each network", title=what)
        if plot.lines and all(value > 0 for line in plot.lines for value in line.get_ydata()):
            plot.set_yscale("log")
    if len(drawn) <= LABELLED and plots[0].lines:
        plots[0].legend(title="network", fontsize=7)
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": ""})
    return True


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
