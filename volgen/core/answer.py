"""What a command gives back: its result for a caller in Python, and the exit code for a shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from volgen.core.exit_codes import CHECK_FAILED, DONE

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """The end of a command that did what it was asked to do.

    Attributes:
        value: what a caller in Python gets.
        passed: whether the question that the command asked, if it asked one, has the answer that was hoped for.
    """

    value: T
    passed: bool = True

    @property
    def code(self) -> int:
        """The exit code of the process."""
        return DONE if self.passed else CHECK_FAILED
