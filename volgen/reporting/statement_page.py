"""``statement.html``: what a reviewer needs to know of a run's privacy, made from ``statement.json`` and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volgen.core.files import read_json, write_text
from volgen.reporting import page

NAME, STATEMENT = "statement.html", "statement.json"
SIDE, EDGE = 220, 24


def write_page(directory: Path) -> Path:
    """Builds the page of a directory that holds ``statement.json``.

    Returns:
        The file.

    Raises:
        UserError: ``statement.json`` is missing or damaged.
    """
    content = read_json(directory / STATEMENT, "a privacy statement")
    roc = _points(content["audit"]["roc"]) if content["audit"] else ""
    html = page.template("statement.html.j2").render(content=content, roc=roc, side=SIDE, edge=EDGE, style=page.resource("style.css"))
    write_text(directory / NAME, html)
    return directory / NAME


def _points(curve: Sequence[Sequence[float]]) -> str:
    """(false, true positive rate) -> SVG coordinates."""
    return " ".join(f"{EDGE + x * SIDE:.1f},{EDGE + (1.0 - y) * SIDE:.1f}" for x, y in curve)
