"""The one kind of error that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from volgen.core.printable import printable


class UserError(ValueError):
    """Bad input, usage or configuration. The command line prints it as one message, one line long, and exits with 2.

    Args:
        where: file, option or configuration key at fault.
        found: what was there.
        expected: what should have been there.
        do: what the user can do about it.
    """

    def __init__(self, where: str, found: str, expected: str = "", do: str = "") -> None:
        self.where, self.found, self.expected, self.do = where, found, expected, do
        message = f"{where}: {found}"
        if expected:
            message += f"; expected {expected}"
        if do:
            message += f". {do[0].upper()}{do[1:]}"
        message = printable(message, keep="")
        super().__init__(message if message.endswith((".", "?")) else message + ".")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str, str]]:
        """The default would rebuild from the message alone, and fail: then a worker's error could not reach the parent."""
        return type(self), (self.where, self.found, self.expected, self.do)


class Diverged(UserError):
    """A step of a sampler gave values that are not finite: wrong settings, or an expert that has diverged."""


def nearest_word(word: str, candidates: Iterable[str]) -> str:
    """A hint "did you mean 'x'?" for a mistyped word, or the list of what exists."""
    options = sorted(set(candidates))
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else "choose one of " + ", ".join(options)
