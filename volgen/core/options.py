r"""The fields of a flat configuration class as options of a command, and back: nobody writes argparse anywhere else.

| a field | on the command line |
|---|---|
| ``count: int`` | ``--count N``, required without a default |
| ``run: Annotated[Path, Positional("RUN")]`` | ``RUN``; optional with a default, several for a tuple |
| ``steps: tuple[int, ...]`` | ``--steps 4 8 16`` |
| ``dtype: Literal["float32", "int16"]`` | ``--dtype {float32,int16}`` |
| ``strict: bool = False`` | ``--strict`` |
| ``pictures: bool = True`` | ``--pictures`` and ``--no-pictures`` |
| ``sampler: Annotated[str \| dict[str, object] \| None, Section(PACKAGE)]`` | ``--sampler KIND`` and ``--sampler.KEY VALUE`` |
| ``overrides: Annotated[Pairs, Dotted()]`` | every other ``--section.key VALUE`` |
| ``benchmark: Annotated[Chosen \| None, Nested(...)]`` | a sub-command with options of its own |

The docstring of a field is the help of its option. Imports nothing heavy: ``volgen --help`` goes through here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar, get_args, get_origin

from volgen.core.errors import UserError, nearest_word
from volgen.core.registry import kinds

if TYPE_CHECKING:
    from volgen.core.config import Config

    T = TypeVar("T", bound=Config)

M = TypeVar("M")
Pairs = tuple[tuple[str, Any], ...]
"""Dotted keys of a configuration and what they shall be: YAML text where it comes from a command line."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?,?", re.IGNORECASE)


@dataclass(frozen=True)
class Positional:
    """Marks a field that is typed without its name: ``runs: Annotated[tuple[Path, ...], Positional("RUN")]``.

    Attributes:
        metavar: what the help calls it.
    """

    metavar: str


@dataclass(frozen=True)
class Option:
    """Marks a field whose option is spelled or shown otherwise than its name says.

    Attributes:
        metavar: what the help calls its value.
        names: all of its spellings; ``--`` and the field's name, with dashes, if empty.
        verbatim: whether commas and spaces belong to the words of an option of several values, as in names; else they part them.
        repeated: whether each value of several has the option in front of it (``--given age=70 --given sex=F``), so that the words behind
            it are left alone; else they stand behind one.
    """

    metavar: str = ""
    names: tuple[str, ...] = ()
    verbatim: bool = False
    repeated: bool = False


@dataclass(frozen=True)
class Section:
    """Marks a field that is a section of a configuration: ``--sampler KIND`` is its kind, ``--sampler.KEY VALUE`` any of its keys.

    Attributes:
        package: the registry of its kinds, which the help lists.
        metavar: what the help calls the kind.
    """

    package: str
    metavar: str = "KIND"


@dataclass(frozen=True)
class Dotted:
    """Marks a field that takes every dotted ``--section.key VALUE`` that no other field does, as :data:`Pairs`."""


class Chosen(NamedTuple):
    """A sub-command that was named.

    Attributes:
        name: what the sub-command is called.
        config: its own options.
    """

    name: str
    config: Any


@dataclass(frozen=True)
class Nested:
    """Marks a field that names a sub-command of a command; the command's other fields become options of each sub-command.

    Attributes:
        metavar: what the help calls it.
        title: heading of the list of them.
        titles: finds their names, each with one line on it.
        config: finds the configuration class of one of them.
    """

    metavar: str
    title: str
    titles: Callable[[], Mapping[str, str]]
    config: Callable[[str], type[Config]]


class Parser(argparse.ArgumentParser):
    """argparse, but bad usage is raised, and an option of several numbers leaves the words that follow them alone.

    Every parser knows what may stand anywhere: ``--debug``, and the rank that launchers put in front of our options or behind them.

    Attributes:
        late: adds the options when the parser is first used; so a sub-command's imports are waited for by those who call it alone.
    """

    late: Callable[[argparse.ArgumentParser], None] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show a traceback with an error")
        # Ranks are read from the environment.
        self.add_argument("--local_rank", "--local-rank", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Reports bad usage the way everything else is reported: one message."""
        raise UserError(self.prog, message, do=f"see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What every way to parse goes through; sub-parsers are called with it too."""
        self.complete()
        return super().parse_known_args(args if args is None else _joined(args, self._actions), namespace)

    def complete(self) -> None:
        """Adds the options that were put off."""
        if self.late is not None:
            add, self.late = self.late, None
            add(self)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            raise UserError(self.prog, f"there is no {action.dest} '{value}'", do=nearest_word(str(value), action.choices))
        super()._check_value(action, value)


def is_number(word: str) -> bool:
    """Whether a word of the command line is a number, maybe with a comma behind it."""
    return _NUMBER.fullmatch(word) is not None


def add_options(parser: argparse.ArgumentParser, cls: type[Config]) -> None:
    """Options for the fields of a flat configuration class, with their documentation and defaults."""
    nested = {name: mark for name, field in cls.model_fields.items() if (mark := _mark(field, Nested))}
    for name, field in cls.model_fields.items():
        if name in nested:
            _add_nested(parser, cls, name, nested[name])
        elif not nested and not _mark(field, Dotted):
            _add(parser, cls, name)


def from_options(cls: type[T], options: argparse.Namespace, parser: argparse.ArgumentParser, rest: Sequence[str] = ()) -> T:
    """The configuration class from the options that were given.

    Args:
        cls: the class that the options were added for.
        options: what was parsed.
        parser: what parsed it.
        rest: words that the parser did not know.

    Raises:
        UserError: a value that the class refuses, or a word that nobody knows.
    """
    from volgen.core.config import apply_overrides, validate

    sections = [name for name, field in cls.model_fields.items() if _mark(field, Section)]
    others = [name for name, field in cls.model_fields.items() if _mark(field, Dotted)]
    dotted = ("--",) if others else tuple(f"--{name}." for name in sections)
    _refuse_strange(rest, dotted, parser)
    pairs = _pairs(rest, parser.prog)
    given = {name: value for name, value in vars(options).items() if name in cls.model_fields}
    for name, value in given.items():
        if mark := _mark(cls.model_fields[name], Nested):
            given[name] = value and Chosen(value, from_options(mark.config(value), options, _of_command(parser, value)))
        elif isinstance(value, list) and _parts(cls.model_fields[name]):
            given[name] = [part for text in value for part in text.replace(",", " ").split()]
    for name in sections:
        kind = [(f"{name}.kind", given[name])] if name in given else []
        keys = [pair for pair in pairs if pair[0].startswith(f"{name}.")]
        given |= apply_overrides({}, [*kind, *keys])
        pairs = [pair for pair in pairs if pair not in keys]
    return validate(cls, {**given, **{name: tuple(pairs) for name in others}}, parser.prog, called=partial(_called, cls))


def _add(parser: argparse.ArgumentParser, cls: type[Config], name: str) -> None:
    field = cls.model_fields[name]
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True, validated_data={})
    several = any(get_origin(part) is tuple for part in (field.annotation, *get_args(field.annotation)))
    section = _mark(field, Section)
    text = _help(field.description or "", default, kinds(section.package) if section else ())
    leaves = [leaf for leaf in _leaves(field.annotation) if leaf is not type(None)]
    types = {leaf for leaf in leaves if isinstance(leaf, type)}
    convert = next(iter(types)) if types in ({int}, {float}, {Path}) and name not in _converted(cls) else str
    if place := _mark(field, Positional):
        count: Any = "+" if several else None if required else "?"
        parser.add_argument(name, metavar=place.metavar, nargs=count, type=convert, default=default, help=text)
        return
    shown = _mark(field, Option) or Option(section.metavar if section else "")
    names = _spellings(cls, name)
    common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
    if field.annotation is bool:
        parser.add_argument(*names, action=argparse.BooleanOptionalAction if default else "store_true", **common)
    elif several:
        numbers = bool(types & {int, float})
        action: Any = "append" if shown.repeated else _Numbers if numbers else "store"
        count = None if shown.repeated else "+"
        metavar = shown.metavar or ("N" if numbers else "VALUE")
        kind = convert if convert is Path else str
        parser.add_argument(*names, metavar=metavar, nargs=count, action=action, type=kind, required=required, **common)
    else:
        choices = None if types else [leaf for leaf in leaves if isinstance(leaf, str)]
        metavar = shown.metavar or (None if choices else "VALUE")  # type: ignore[assignment]
        parser.add_argument(*names, metavar=metavar, type=convert, choices=choices, required=required, **common)


def _spellings(cls: type[Config], name: str) -> tuple[str, ...]:
    shown = _mark(cls.model_fields[name], Option)
    return (shown and shown.names) or (f"--{name.replace('_', '-')}",)


def _called(cls: type[Config], name: str) -> str:
    """What a field is called on the command line."""
    place = _mark(cls.model_fields[name], Positional) if name in cls.model_fields else None
    return place.metavar if place else _spellings(cls, name)[0] if name in cls.model_fields else name


def _help(text: str, default: Any, choices: Sequence[str]) -> str:
    """A docstring on one line, with the default in front of its full stop."""
    words = " ".join([*text.replace("``", "").split(), *(["One of", ", ".join(choices) + "."] if choices else [])])
    if not isinstance(default, bool) and default not in (None, ()):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        words = f"{words.removesuffix('.')} (default: {shown}){'.' * words.endswith('.')}"
    return words.replace("%", "%%")


def _add_nested(parser: argparse.ArgumentParser, cls: type[Config], name: str, mark: Nested) -> None:
    """One sub-parser for each sub-command; its options and the command's own are added when it is asked for."""
    text = cls.model_fields[name].description
    children = parser.add_subparsers(dest=name, metavar=mark.metavar, title=mark.title, parser_class=Parser, help=text)

    def fill(child: argparse.ArgumentParser, kind: str) -> None:
        add_options(child, mark.config(kind))
        for other in cls.model_fields:
            if other != name:
                _add(child, cls, other)

    for kind, title in mark.titles().items():
        child = children.add_parser(kind, help=title, description=title, allow_abbrev=False)
        child.late = partial(fill, kind=kind)


def _of_command(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    (children,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found: argparse.ArgumentParser = children.choices[name]
    return found


def _names_of(parser: argparse.ArgumentParser) -> list[str]:
    """Every option that a parser or one of its sub-parsers knows."""
    names: list[str] = []
    for action in parser._actions:
        names += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            names += [name for sub in action.choices.values() for name in _names_of(sub)]
    return names


def _refuse_strange(rest: Sequence[str], dotted: tuple[str, ...], parser: argparse.ArgumentParser) -> None:
    """Refuses words that neither the parser nor a section of the configuration knows."""
    strange = [word for word in rest if word.startswith("--") and not word.startswith(dotted)] if dotted else rest
    if strange:
        word = strange[0].partition("=")[0]
        do = nearest_word(word, _names_of(parser)) if word.startswith("-") else f"see {parser.prog} --help"
        raise UserError(parser.prog, f"unknown argument '{word}'", do=do)


def _pairs(words: Sequence[str], where: str) -> list[tuple[str, str]]:
    """``--section.key value`` and ``--section.key=value`` as pairs; several numbers (``--data.shape 40 48 40``) are a list."""
    pairs: list[tuple[str, str]] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(where, f"unexpected argument '{word}'", "--section.key VALUE", f"see {where} --help")
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(where, f"'{word}' has no value", f"{word} VALUE, with a key of the configuration", f"see {where} --help")
            value = _yaml(_values(waiting))
        pairs.append((key, value))
    return pairs


class _Numbers(argparse._StoreAction):
    """An option whose values are numbers, or one word instead of them."""


def _joined(words: Sequence[str], actions: Sequence[argparse.Action]) -> list[str]:
    """``--shape 48 56 48 SOURCE`` -> ``--shape=48 56 48``, ``SOURCE``, and ``--sampler.eta 0 RUN`` -> ``--sampler.eta=0``, ``RUN``.

    argparse would give the one option everything up to the next one, and takes what follows the other, which it does not know, for RUN.
    """
    numeric = {name for action in actions if isinstance(action, _Numbers) for name in action.option_strings}
    result: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if waiting and not waiting[0].startswith("--"):
            if word in numeric:
                word += "=" + " ".join(_values(waiting))
            elif word.startswith("--") and "." in word and "=" not in word:
                word += "=" + _yaml(_values(waiting))
        result.append(word)
    return result


def _values(waiting: list[str]) -> list[str]:
    """Takes the value of an option off the words that follow it: one word, or several numbers."""
    values = [waiting.pop(0)]
    while waiting and is_number(waiting[0]) and is_number(values[0]):
        values.append(waiting.pop(0))
    return values


def _yaml(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else "[" + ", ".join(word.rstrip(",") for word in values) + "]"


def _mark(field: Any, kind: type[M]) -> M | None:
    return next((mark for mark in field.metadata if isinstance(mark, kind)), None)


def _parts(field: Any) -> bool:
    """Whether commas and spaces part the values of a field."""
    mark = _mark(field, Option)
    return not (_mark(field, Positional) or (mark and mark.verbatim) or Path in _leaves(field.annotation))


def _converted(cls: type[Config]) -> set[str]:
    """Fields whose values a validator reads before their type does: ``native`` may stand for a number."""
    validators = cls.__pydantic_decorators__.field_validators.values()
    return {name for found in validators if found.info.mode == "before" for name in found.info.fields}


def _leaves(annotation: Any) -> list[Any]:
    """The plain types inside an annotation, and the values of a literal."""
    return [leaf for part in get_args(annotation) for leaf in _leaves(part)] or [annotation]
