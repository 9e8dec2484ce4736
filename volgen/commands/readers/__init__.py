"""Have doctors grade volumes without telling them which are real, and score what they said.

`volgen readers make SAMPLES --real STORE --out DIR` writes DIR/for-readers/study.html, which is all that readers get, and DIR/key.json,
which they must not see. Each reader opens the page, from disk or from a USB stick, and sends back the file that it saves.
`volgen readers score DIR A.json B.json --out SCORES` says how good the structures are, whether readers agree, and whether they can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from volgen.core.address import Address
from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Chosen, Nested, Option, Positional

if TYPE_CHECKING:
    from typing import Any

STRUCTURES = (
    "lateral ventricles", "hippocampus", "cerebral aqueduct", "cortex", "white matter", "deep grey matter", "cerebellum", "brainstem",
    "outline of the brain",
)  # fmt: skip
"""What readers mark: the three of Shibata et al. 2024, and what a reader looks at besides."""


class MakeConfig(BaseConfig):
    """What readers are shown, and what they are asked."""

    samples: Annotated[Path, Positional("SAMPLES")]
    """Generated volumes: an image, a folder of images, or a store."""
    real: Annotated[Address, Option("STORE")]
    """Store of real scans, a folder or an address, with voxels of the same size."""
    out: Annotated[Path, Option("DIR")]
    """New folder for the page, which readers get, and the key, which they do not."""
    split: Literal["all", "train", "validation", "test"] = "all"
    """People of the store to choose from."""
    count: Annotated[int, Option("N"), Field(ge=2, le=500)] = 40
    """Volumes of each kind at most; there are as many real as generated ones, and one scan of a person."""
    repeats: Annotated[float, Option("SHARE"), Field(ge=0.0, le=1.0)] = 0.2
    """Share of the volumes that everybody sees twice without being told, as many real as generated ones."""
    readers: Annotated[int, Option("N"), Field(ge=1, le=26)] = 3
    """Readers, called A, B and so on, each of whom has an order of their own."""
    structures: Annotated[tuple[str, ...], Option("NAME", verbatim=True), Field(min_length=1, max_length=30)] = STRUCTURES
    """What gets a mark from 1 to 5."""
    slices: Annotated[int, Option("N"), Field(ge=3, le=200)] = 15
    """Slices of each plane that are shown, from one end of the head to the other."""
    seed: Annotated[int | None, Option("S")] = None
    """Seed of choice and order; whoever knows it can find out what is real (default: one that nobody knows, kept in key.json)."""


class ScoreConfig(BaseConfig):
    """Whose answers are scored, and how."""

    study: Annotated[Path, Positional("STUDY")]
    """Folder that volgen readers make has written."""
    answers: Annotated[tuple[Path, ...], Positional("ANSWERS")]
    """Files that the page saved, one of each reader, and perhaps that of the adjudication."""
    out: Annotated[Path, Option("DIR")]
    """Folder for scores.html, scores.json, marks.csv, and adjudication.html if readers differ."""
    margin: Annotated[float, Option("MARKS"), Field(gt=0.0, lt=5.0)] = 0.5
    """Difference of mean marks below which generated volumes count as equivalent to real ones."""
    gap: Annotated[int, Option("MARKS"), Field(ge=1, le=4)] = 2
    """Marks that are this far apart are adjudicated."""
    draws: Annotated[int, Option("N"), Field(ge=100, le=100_000)] = 2000
    """Draws of the bootstrap over volumes crossed with readers."""
    seed: Annotated[int, Option("S"), Field(ge=0)] = 0
    """Seed of the draws."""


ACTIONS: Mapping[str, tuple[str, type[BaseConfig]]] = {
    "make": ("Write a blinded page for readers, and its key.", MakeConfig),
    "score": ("Score the answers of readers.", ScoreConfig),
}
"""Title and options of each action."""


def _titles() -> dict[str, str]:
    return {name: title for name, (title, _) in ACTIONS.items()}


class Config(BaseConfig):
    """What is done."""

    action: Annotated[Chosen | None, Nested("ACTION", "actions", _titles, lambda name: ACTIONS[name][1])] = None
    """What to do (default: list what there is)."""


def run(config: Config) -> Answer[Any]:
    """Makes a study, or scores one."""
    if config.action is None:
        print("\n".join(f"{name:<6} {title}" for name, title in _titles().items()))
        return Answer(None)
    from volgen.commands.readers.make import make
    from volgen.commands.readers.score import score_study

    name, settings = config.action
    return Answer(make(**dict(settings)) if name == "make" else score_study(**dict(settings)))
