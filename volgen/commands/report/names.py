"""Names of generators: what a folder is called, or what ``NAME=FOLDER`` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from volgen.core.errors import UserError

_NAME = re.compile(r"[\w+-][\w .+=-]{0,62}")


def named(words: Sequence[str]) -> dict[str, Path]:
    """Folders by name, in the order given.

    Raises:
        UserError: fewer than two, a name twice, or a name that cannot be that of a folder.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        if not equals or Path(word).exists():  # a folder may have = in its name
            name, rest = Path(word).resolve().name, word
        if not rest or not _NAME.fullmatch(name) or name.endswith((" ", ".")):
            expected = "FOLDER or NAME=FOLDER with a name of letters, digits, spaces and . _ + - (at most 63, no dot in front)"
            raise UserError("--compare", f"'{word}' has no name that a folder can have", expected)
        if name.casefold() in {other.casefold() for other in found}:
            raise UserError("--compare", f"two are called '{name}'", "names that differ", "give them names: --compare NAME=FOLDER ...")
        found[name] = Path(rest)
    if len(found) < 2:
        raise UserError("--compare", f"{len(found)} folder", "two or more", "for one: volgen report SAMPLES")
    return found
