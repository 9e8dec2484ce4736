"""``volgen readers score``: a key and answers in; means, agreement and who can tell out, and a page for what readers differ in."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from volgen.commands.readers.answers import CONSENSUS, StudyKey, read_answers
from volgen.commands.readers.make import FOR_READERS, KEY
from volgen.core import manifest
from volgen.core.files import sha256, write_json, write_text
from volgen.core.folder import claim
from volgen.core.manifest import Provenance
from volgen.core.progress import say, say_next
from volgen.evaluation.readings import Readings, each_mark, score
from volgen.reporting import readers_page, readings_page

MARKS, ADJUDICATION = "marks.csv", "adjudication.html"
WRITES = (readings_page.NAME, readings_page.SCORES, MARKS, ADJUDICATION, manifest.NAME)


def score_study(
    study: Path, answers: Sequence[Path], out: Path, *, margin: float = 0.5, gap: int = 2, draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Scores the answers of readers.

    Args:
        study: folder of ``volgen readers make``.
        answers: files that the page saved; one of them may be that of the adjudication.
        out: folder for the scores.
        margin: difference of mean marks that does not matter.
        gap: marks this far apart are adjudicated.
        draws: draws of the bootstrap.
        seed: seed of the draws.

    Returns:
        The content of ``scores.json``.

    Raises:
        UserError: the folder is no study, a file is none of its answers, or ``out`` holds something else.
    """
    key = StudyKey.read(study / KEY)
    readings = read_answers(key, answers)
    config = {"study": key.study, "margin": margin, "gap": gap, "draws": draws, "seed": seed}
    provenance = Provenance("readers score", config, {"answers": {path.name: sha256(path, follow=True) for path in answers}})

    def differs(before: Mapping[str, Any]) -> str:
        same = before.get("stage") == "readers score" and before.get("config", {}).get("study") == key.study
        return "" if same else "holds something else than scores of this study"

    with claim(out, provenance, "scores", writes=lambda name: name in WRITES, differs=differs) as folder:
        if folder.before is not None:
            folder.clear()  # of fewer readers, or other settings
        folder.begin()
        content = {"study": key.study, "settings": config, **score(readings, margin=margin, gap=gap, draws=draws, seed=seed)}
        content["adjudicate"] = [{**one, "name": key.names[one["volume"]]} for one in content["adjudicate"]]
        write_json(out / readings_page.SCORES, content)
        write_text(out / MARKS, _table(key, readings))
        readings_page.write_page(out)
        if content["adjudicate"]:
            _write_adjudication(study, out, readings, content["adjudicate"])
        folder.finish(readers=len(readings.readers))
    say(f"{out / readings_page.NAME}: {readings_page.headline(content)}")
    if content["adjudicate"] and not readings.settled:
        say(f"Readers differ by {gap} marks or more {len(content['adjudicate'])} times: have them agree on {out / ADJUDICATION}.")
        say_next("volgen", "readers", "score", study, *answers, f"readings-{key.study}-{CONSENSUS}.json", "--out", out)
    return content


def _table(key: StudyKey, readings: Readings) -> str:
    """Every mark in a line of its own, for other programs."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["reader", "volume", "name", "generated", "again", "structure", "mark"])
    for reader, volume, again, structure, mark in each_mark(readings):
        table.writerow([reader, volume, key.names[volume], int(key.generated[volume]), int(again), structure, int(mark)])
    return text.getvalue()


def _write_adjudication(study: Path, out: Path, readings: Readings, apart: Sequence[Mapping[str, Any]]) -> None:
    """The page once more, with the volumes and structures that readers differ in, and their marks."""
    content, stacks = readers_page.read_study(study / FOR_READERS / readers_page.NAME)
    asks: dict[int, dict[str, dict[str, int]]] = {}
    for one in apart:
        marks_R = readings.marks[one["structure"]][:, one["volume"]]
        given = {reader: int(mark) for reader, mark in zip(readings.readers, marks_R, strict=True) if np.isfinite(mark)}
        asks.setdefault(one["volume"], {})[one["structure"]] = given
    shown = {**content, "readers": {CONSENSUS: list(asks)}, "asks": {str(volume): ask for volume, ask in asks.items()}}
    readers_page.write_study(out / ADJUDICATION, shown, {volume: stacks[volume] for volume in asks})
