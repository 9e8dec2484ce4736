"""The page of reconstructions in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from volgen.core.files import write_json
from volgen.reporting import reconstruction_page as pages
from volgen.reporting.reconstruction_page import Shown

if TYPE_CHECKING:
    from typing import Any as Browser  # the class is in conftest.py, which tests do not import

WARNING = "Data and model disagree: <b>the volumes miss it</b>."


def result(directory: Path, *, known: bool) -> Path:
    axes = np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij")
    head = np.where(sum(axis**2 for axis in axes) < 0.6, 0.8 + 0.2 * axes[0], 0.0).astype(np.float32)
    spread = (0.05 * np.abs(axes[2]) * (head > 0)).astype(np.float32)
    maps = {
        "mean": Shown(head, "Mean", "The mean.", "level"), "std": Shown(spread, "Standard deviation", "The spread.", "above"),
        "residual": Shown(spread - 0.02, "Residual", "What is left.", "signed"),
        "p05": Shown(head - spread, "5th percentile", "Low.", "level"),
    }  # fmt: skip
    shown = pages.write_pictures(directory, "sub-0001", maps, (2.0, 2.0, 3.0))
    calibration = {
        "voxels": 10, "coverage": {"0.5": 0.52, "0.8": 0.79, "0.9": 0.913, "0.95": 0.96}, "pit": [0.1] * 10, "error": 0.1, "spread": 0.1,
        "spread_over_error": 1.0, "by_spread": [],
    }  # fmt: skip
    likeness = {"psnr": 30.0, "psnr_head": 25.5, "ssim_head": None}
    told = {
        "name": "sub-0001", "samples": 4, "chi_square": 7.1, "disagreement": WARNING,
        "middle": pages.middle_of((24, 24, 24)), "maps": shown,
        "truth": {"mean": likeness, "sample": likeness} if known else None, "calibration": calibration if known else None,
    }  # fmt: skip
    content = {"headline": "4 volumes of one head", "run": "tiny", "measured": "an image", "known": known, "heads": [told]}
    write_json(directory / pages.RESULT, {**content, "calibration": calibration if known else None})
    return pages.write_page(directory)


def test_what_is_shown_has_a_scale() -> None:
    signed = Shown(np.array([-0.5, 0.0, 0.25], dtype=np.float32).reshape(3, 1, 1), "", "", "signed")
    assert signed.white == pytest.approx(0.5, rel=0.01)
    np.testing.assert_allclose(signed.grey.ravel(), [0.0, 0.5, 0.75], atol=0.01)
    assert signed.legend == "black is -0.5, white 0.5 of the intensity window"
    assert Shown(np.full((2, 2, 2), 0.25, dtype=np.float32), "", "", "level").grey.max() == 0.25


@pytest.mark.e2e
@pytest.mark.parametrize("known", [True, False])
def test_the_page_opens_and_the_viewer_shows_the_mean(browser: Browser, tmp_path: Path, known: bool) -> None:
    browser.open(result(tmp_path, known=known))
    browser.wait("document.querySelector('.viewer')?.dataset.shown || document.querySelector('[data-failed]')")
    assert not browser.run("return document.querySelector('[data-failed]')?.textContent ?? ''")
    assert browser.run("return document.querySelector('.viewer').dataset.shown").startswith("h0-mean ")
    assert [entry["message"] for entry in browser.logs("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked: list[Any] = browser.requests()
    assert len(asked) == 1 and asked[0].startswith("file:")
    text = browser.run("return document.body.textContent")
    assert WARNING in text, "what a result says is text and no HTML"
    assert ("91.3 %" in text) == known and ("25.50 dB" in text) == known
    # Every map can be looked at; a percentile has its pictures alone.
    buttons = browser.run("return [...document.querySelectorAll('button[data-volume]')].map((b) => b.dataset.volume)")
    assert buttons == ["h0-mean", "h0-std", "h0-residual"]
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
