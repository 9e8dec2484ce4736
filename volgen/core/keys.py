"""The keys of a configuration class: what each means, may be, and is where nothing is said. They come from the classes that read them."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from volgen.core.config import Config

NAMES: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", types.NoneType: "null", Any: "section"}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
PLURAL = re.compile(r"^((?:whole )?number|section)\b")
REQUIRED = "required"


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        name: dotted.
        values: what it may be, with its range; words in backticks are typed as they are.
        default: what it is if nothing is said, or :data:`REQUIRED`.
        meaning: what it does, with its unit.
    """

    name: str
    values: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Kind:
    """One kind of a section, or all that there is of a section without kinds.

    Attributes:
        name: the value of ``kind``; empty without kinds.
        usual: whether it is taken if nothing is said.
        meaning: what it is.
        keys: its keys, without ``kind``.
    """

    name: str
    usual: bool
    meaning: str
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Section:
    """One section of a configuration.

    Attributes:
        name: what the section is called.
        meaning: what it is about.
        kinds: its kinds; a single one without a name if it has none.
    """

    name: str
    meaning: str
    kinds: tuple[Kind, ...]


def simple(cls: type[Config]) -> list[Key]:
    """The keys of a configuration class that are no sections, nor lists of sections that have kinds."""
    return [_key(name, field) for name, field in cls.model_fields.items() if not (_classes(field.annotation) or _many(field.annotation))]


def sections(cls: type[Config]) -> list[Section]:
    """The sections of a configuration class, and the lists of sections that have kinds."""
    found = []
    for name, field in cls.model_fields.items():
        one, many = _classes(field.annotation), _many(field.annotation)
        if one or many:
            kinds = _kinds(name, field, one) if one else _kinds(f"{name}[]", field, many)
            found.append(Section(name, _text(field.description), tuple(kinds)))
    return found


def _kinds(name: str, field: FieldInfo, members: Sequence[type[Config]]) -> Iterator[Kind]:
    if len(members) == 1 and "kind" not in members[0].model_fields:
        yield Kind("", True, _text(members[0].__doc__), tuple(_keys(name, members[0])))
        return
    made = field.get_default(call_default_factory=True, validated_data={})
    usual = made.get("kind") if isinstance(made, dict) else None
    for member in members:
        kind = member.model_fields["kind"].default
        keys = tuple(key for key in _keys(name, member) if not key.name.endswith(".kind"))
        yield Kind(kind, kind == usual, _text(member.__doc__), keys)


def _classes(annotation: Any) -> list[type[Config]]:
    """The configuration classes that a type allows."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [found for argument in get_args(annotation) for found in _classes(argument)]
    return []


def _many(annotation: Any) -> list[type[Config]]:
    """The configuration classes that a list may hold, if they are told apart by their kinds."""
    members = _classes(get_args(annotation)[0]) if get_origin(annotation) is tuple else []
    return members if all("kind" in member.model_fields for member in members) else []


def _keys(prefix: str, cls: type[Config]) -> Iterator[Key]:
    for name, field in cls.model_fields.items():
        members = _classes(field.annotation)
        if len(members) == 1:
            if field.default is None:
                yield Key(f"{prefix}.{name}", "section", "null", _text(field.description))
            yield from _keys(f"{prefix}.{name}", members[0])
        else:
            yield _key(f"{prefix}.{name}", field)
            if get_origin(field.annotation) is tuple:  # a list of sections
                for member in _classes(get_args(field.annotation)[0]):
                    yield from (_key(f"{prefix}.{name}[].{inner}", of) for inner, of in member.model_fields.items())


def _key(name: str, field: FieldInfo) -> Key:
    default = REQUIRED if field.is_required() else _value(field.get_default(call_default_factory=True, validated_data={}))
    return Key(name, _type(field.annotation, field.metadata), default, _text(field.description))


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        words = _type(arguments[0], arguments[1:])
    elif origin is Literal:
        words = ", ".join(f"`{value}`" for value in arguments)
    elif origin in (Union, types.UnionType):
        words = " or ".join(dict.fromkeys(_type(argument) for argument in arguments))
    elif origin in (tuple, list):
        many = origin is list or arguments[-1] is Ellipsis
        words = (
            "list of " + PLURAL.sub(r"\1s", _type(arguments[0])) if many else f"[{', '.join(_type(argument) for argument in arguments)}]"
        )
    elif _classes(annotation):
        words = "section"
    else:
        words = NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    limits = [f"{sign} {_value(getattr(found, name))}" for found in metadata for name, sign in BOUNDS.items() if hasattr(found, name)]
    return f"{words} {' and '.join(limits)}".rstrip()


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, int) and value > 2**60:
        return f"2^{value.bit_length() - 1}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _text(words: str | None) -> str:
    words = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", words or "")
    return " ".join(words.replace("``", "`").split())
