"""Text that is safe to show on a terminal."""

from __future__ import annotations

import unicodedata

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of Unicode: controls, what turns text around or joins it, halves of pairs, private and unknown characters, line ends."""
JOINERS = "\u200c\u200d"
"""Words of Persian and other languages need these."""


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Writes control characters and the like as escapes, such as ``\x1b``: a file's name must not move the cursor or forge a line.

    Args:
        text: anything.
        keep: control characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in keep or character in JOINERS or unicodedata.category(character) not in UNSEEN else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
