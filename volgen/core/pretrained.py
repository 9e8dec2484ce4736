"""Models that are in the package: ``pretrained:NAME`` where a command asks for the directory of a run, or for a template.

The folder :data:`FOLDER` is the registry: a folder in it is a released run (``volgen release --compact``), with a model card and a licence.
It is read and never written to.
"""

from __future__ import annotations

import re
from pathlib import Path

from volgen.core.errors import UserError, nearest_word

PREFIX = "pretrained:"
FOLDER = Path(__file__).parents[1] / "pretrained"
"""Where the models are, one folder for each."""
CARD = "MODEL_CARD.md"
"""File of a model that says who it was trained on, how, how good it is, and what it is not for."""
LICENCE = "LICENSE"
"""File of a model with the terms of its data."""
TEMPLATE = "template.nii.gz"
"""File of a model with the mean of its people, to which others are registered."""
PREPARED = "prepared"
"""Key of a model's manifest, in ``config``: with which ``--registration``, ``--bias`` and ``--window`` its cohort was ingested."""
UNPREPARED = {"registration": {"kind": "none"}, "bias": {"kind": "none"}, "window": {"kind": "robust"}}
"""What a store or a model is that is older than one of these choices, and what need not be asked for."""
SAFE = re.compile(r"[A-Za-z0-9][\w.-]*")
"""What a model may be called: a single name, and no way out of the registry."""


def packaged(address: str | Path) -> bool:
    """Whether an address means a model of the package."""
    return str(address).startswith(PREFIX)


def names() -> list[str]:
    """Models of this version, sorted."""
    if not FOLDER.is_dir():
        return []
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and SAFE.fullmatch(path.name))


def folder(address: Path) -> Path:
    """Where a run is: its directory as it was typed, or that of a model of the package.

    Raises:
        UserError: the package has no model of that name; the message lists those that it has.
    """
    if not packaged(address):
        return address
    name, known = str(address).removeprefix(PREFIX), names()
    if name in known:
        return FOLDER / name
    if not known:
        raise UserError(str(address), "no model is packaged in this version of volgen", "the directory of a run", "volgen train makes one")
    expected = f"one of {', '.join(PREFIX + one for one in known)}"
    raise UserError(str(address), f"there is no model '{name}' in the package", expected, nearest_word(name, known))


def file(address: str | Path, name: str) -> Path:
    """Where a file is that is asked for: as it was typed, or the file ``name`` of a model of the package.

    Raises:
        UserError: the package has no such model, or the model no such file.
    """
    if not packaged(address):
        return Path(address)
    path = folder(Path(address)) / name
    if not path.is_file():
        raise UserError(str(address), f"has no {name}", "a model that comes with one")
    return path
