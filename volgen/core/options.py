"""The fields of a flat configuration class as options of a command, and back.

Imports nothing heavy: ``volgen --help`` goes through here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin

from volgen.core.errors import UserError

if TYPE_CHECKING:
    from volgen.core.config import Config

    T = TypeVar("T", bound=Config)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?,?", re.IGNORECASE)


@dataclass(frozen=True)
class Positional:
    """Marks a field that is typed without its name: ``runs: Annotated[tuple[Path, ...], Positional("RUN")]``.

    Attributes:
        metavar: what the help calls it.
    """

    metavar: str


class Parser(argparse.ArgumentParser):
    """argparse, but bad usage is raised, and an option of several numbers leaves the words that follow them alone.

    Attributes:
        late: adds the options when the parser is first used; so a sub-command's imports are waited for by those who call it alone.
    """

    late: Callable[[argparse.ArgumentParser], None] | None = None

    def error(self, message: str) -> NoReturn:
        """Reports bad usage the way everything else is reported: one message."""
        raise UserError(self.prog, message, do=f"see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What every way to parse goes through; sub-parsers are called with it too."""
        if self.late is not None:
            add, self.late = self.late, None
            add(self)
        return super().parse_known_args(args if args is None else _joined(args, self._actions), namespace)


def is_number(word: str) -> bool:
    """Whether a word of the command line is a number, maybe with a comma behind it."""
    return _NUMBER.fullmatch(word) is not None


def names_of(parser: argparse.ArgumentParser) -> list[str]:
    """Every option that a parser or one of its sub-parsers knows."""
    names: list[str] = []
    for action in parser._actions:
        names += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            names += [name for sub in action.choices.values() for name in names_of(sub)]
    return names


def add_options(parser: argparse.ArgumentParser, cls: type[Config]) -> None:
    """One option for every field of a flat configuration class, with its documentation and default."""
    for name, field in cls.model_fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        several = any(get_origin(part) is tuple for part in (field.annotation, *get_args(field.annotation)))
        text = " ".join((field.description or "").replace("``", "").split())
        if not required and default not in (None, False):
            text += f" (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
        text = text.replace("%", "%%")
        place = next((mark for mark in field.metadata if isinstance(mark, Positional)), None)
        if place is not None:
            parser.add_argument(name, metavar=place.metavar, nargs="+" if several else None, help=text)
        elif field.annotation is bool and default is False:
            parser.add_argument(_option(name), dest=name, action="store_true", default=argparse.SUPPRESS, help=text)
        elif several:
            numbers = any(leaf in (int, float) for leaf in _leaves(field.annotation))
            parser.add_argument(
                _option(name), dest=name, metavar="N" if numbers else "VALUE", nargs="+", action=_Numbers if numbers else "store",
                required=required, default=argparse.SUPPRESS, help=text,
            )  # fmt: skip
        else:
            parser.add_argument(_option(name), dest=name, metavar="VALUE", required=required, default=argparse.SUPPRESS, help=text)


def from_options(cls: type[T], options: argparse.Namespace, where: str) -> T:
    """The configuration class from the options that were given.

    Raises:
        UserError: a value that the class refuses.
    """
    from volgen.core.config import validate

    given = {name: value for name, value in vars(options).items() if name in cls.model_fields}
    for name, value in given.items():
        if isinstance(value, list) and not any(isinstance(mark, Positional) for mark in cls.model_fields[name].metadata):
            given[name] = [part for text in value for part in text.replace(",", " ").split()]
    return validate(cls, given, where)


class _Numbers(argparse._StoreAction):
    """An option whose values are numbers, or one word instead of them."""


def _joined(words: Sequence[str], actions: Sequence[argparse.Action]) -> list[str]:
    """``--shape 48 56 48 SOURCE`` -> ``--shape=48 56 48``, ``SOURCE``: argparse would give the option everything up to the next one."""
    numeric = {name for action in actions if isinstance(action, _Numbers) for name in action.option_strings}
    result: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word in numeric and waiting and not waiting[0].startswith("--"):
            values = [waiting.pop(0)]
            while waiting and is_number(values[0]) and is_number(waiting[0]):
                values.append(waiting.pop(0))
            word += "=" + " ".join(values)
        result.append(word)
    return result


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _leaves(annotation: Any) -> list[Any]:
    """The plain types inside an annotation."""
    return [leaf for part in get_args(annotation) for leaf in _leaves(part)] or [annotation]
