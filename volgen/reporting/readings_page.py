"""``scores.html``: what readers said of a study, made from ``scores.json`` and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volgen.core.files import read_json, write_text
from volgen.reporting import page

NAME, SCORES = "scores.html", "scores.json"


def write_page(directory: Path) -> Path:
    """Builds the page of a directory that holds ``scores.json``.

    Returns:
        The file.

    Raises:
        UserError: ``scores.json`` is missing or damaged.
    """
    content = read_json(directory / SCORES, "the scores of a reader study")
    html = page.template("readings.html.j2").render(
        content=content, headline=headline(content), number=_number, between=_between, style=page.resource("style.css")
    )
    write_text(directory / NAME, html)
    return directory / NAME


def headline(content: Mapping[str, Any]) -> str:
    """What a study found, in a sentence or two."""
    structures = content["structures"]
    alike = [name for name, found in structures.items() if found["equivalence"]["equivalent"]]
    margin = content["settings"]["margin"]
    text = f"{len(alike)} of {len(structures)} structures are equivalent to those of scans within {margin:g} marks"
    area = content["detection"]["all"]["area"]
    if area["value"] is None:
        return f"{text}; nobody said which volumes are real."
    told = f"area under the ROC curve {area['value']:.2f}{_between(area['interval'])}; 0.5 is guessing"
    if area["interval"] is None:
        return f"{text}; {told}."
    tell = "readers tell generated volumes from scans" if area["interval"][0] > 0.5 else "it is not shown that readers can tell"
    return f"{text}; {tell} ({told})."


def _number(value: float | None) -> str:
    """A number, or a dash where it is not defined."""
    return "-" if value is None else f"{value:.2f}"


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
