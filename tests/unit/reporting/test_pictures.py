"""The picture of samples shows every volume upright, with its sides named; the picture of losses shows every network's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from volgen.reporting.curves import Curve, write_curves
from volgen.reporting.overview import Middle, write_overview


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those that are saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def remember(self: Figure, *args: object, **kwargs: object) -> None:
        saved.append(self)
        save(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def test_letters_name_the_sides_that_are_there(tmp_path: Path, figures: list[Figure]) -> None:
    # RAS+: x runs to the right of the head, y to its front, z to its top. A bright spot right, front, top.
    unit = np.zeros((8, 10, 12), np.float32)
    unit[6:, :, :] = 0.3
    unit[:, 8:, :] += 0.2
    unit[:, :, 10:] += 0.4
    write_overview(tmp_path / "a.png", [Middle.of("sub-0001", unit), Middle.of("sub-0002", unit)], (1.0, 2.0, 1.0), "two")
    (figure,) = figures
    axial, _, coronal, _, sagittal, _ = figure.axes[:6]
    for plot, letters, bright in ((axial, ("L", "R"), "right"), (coronal, ("L", "R"), "right"), (sagittal, ("P", "A"), "right")):
        texts = {text.get_position()[0] < 0.5: text.get_text() for text in plot.texts}
        assert (texts[True], texts[False]) == letters
        picture = plot.images[0].get_array()
        assert picture[:, -1].mean() > picture[:, 0].mean(), f"{bright} is at the right"
        assert picture[0].mean() > picture[-1].mean(), "front or top is above"
    assert axial.images[0].get_array().shape == (10, 8) and axial.get_aspect() == 2.0, "voxels are twice as long from front to back"
    assert axial.get_title() == "sub-0001"
    first = (tmp_path / "a.png").read_bytes()
    write_overview(tmp_path / "a.png", [Middle.of("sub-0001", unit), Middle.of("sub-0002", unit)], (1.0, 2.0, 1.0), "two")
    assert (tmp_path / "a.png").read_bytes() == first, "equal volumes, equal bytes"


def test_losses_of_every_network_are_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    curves = {"shared": Curve(), "0": Curve()}
    for step in (1, 2, 3):
        curves["shared"].add(step, {"loss": 1.0 / step, "learning_rate": 1.0})
        curves["0"].add(step, {"loss": 2.0 / step, **({"validation_loss": 0.5} if step == 2 else {})})
    assert write_curves(tmp_path / "curves.png", curves, "run")
    training, validation = figures[0].axes
    assert [list(line.get_ydata()) for line in training.lines] == [[1.0, 0.5, 1 / 3], [2.0, 1.0, 2 / 3]]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in validation.lines] == [([2], [0.5])]
    assert imread(tmp_path / "curves.png").ndim == 3


def test_where_no_loss_was_measured_nothing_is_drawn(tmp_path: Path) -> None:
    private = Curve()
    private.add(1, {"learning_rate": 1.0, "gradient_norm": 2.0})
    assert not write_curves(tmp_path / "curves.png", {"0": private}, "run")
    assert not list(tmp_path.iterdir())
