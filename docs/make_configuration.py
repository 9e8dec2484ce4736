"""Writes ``docs/configuration.md``, the reference of every key of a configuration, from the classes that read them.

Give ``python docs/make_configuration.py`` after a key was added or changed.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from volgen.core.config import Config
from volgen.recipe import Recipe

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration

Every key that `volgen train --config CONFIG.yaml` reads, with its default. Each is also an option: `--data.batch_size 8`.
`--print_config` shows a configuration with all of its defaults. An unknown key is an error that names the nearest one. Where a section
has a `kind`, its other keys are those of that kind. Complete examples are in `configs/`; what a key is good for is in the
page of its subject.

<!-- Written by docs/make_configuration.py from the classes themselves; a test compares the two. -->
"""
NAMES: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false", types.NoneType: "null"}
ELSEWHERE = {"data.shape": "the store's"}
"""Defaults that are not the class's own."""
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def page() -> str:
    """The whole page."""
    simple, sections = [], []
    for name, field in Recipe.model_fields.items():
        members = _classes(field.annotation)
        (sections if members else simple).append((name, field, members))
    lines = [HEAD, "## The run", "", *_table([_row(name, field) for name, field, _ in simple])]
    for name, field, members in sections:
        lines += ["", f"## {name}", "", _text(field.description)]
        if len(members) == 1 and "kind" not in members[0].model_fields:
            lines += ["", *_table(_rows(name, members[0]))]
            continue
        usual = _usual_kind(field)
        for member in members:
            kind = member.model_fields["kind"].default
            lines += ["", f"### `{name}.kind: {kind}`{' (the default)' if kind == usual else ''}", "", _text(member.__doc__)]
            if rows := [row for row in _rows(name, member) if not row[0].endswith(".kind`")]:
                lines += ["", *_table(rows)]
    return "\n".join(lines) + "\n"


def _usual_kind(field: FieldInfo) -> str | None:
    made = field.get_default(call_default_factory=True, validated_data={})
    return made.get("kind") if isinstance(made, dict) else None


def _classes(annotation: Any) -> list[type[Config]]:
    """The configuration classes that a type allows."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [found for argument in get_args(annotation) for found in _classes(argument)]
    return []


def _rows(prefix: str, cls: type[Config]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in cls.model_fields.items():
        members = _classes(field.annotation)
        if len(members) == 1:
            if field.default is None:
                yield f"`{prefix}.{name}`", "section", "null", _text(field.description)
            yield from _rows(f"{prefix}.{name}", members[0])
        else:
            yield _row(f"{prefix}.{name}", field)


def _row(key: str, field: FieldInfo) -> tuple[str, str, str, str]:
    default = (
        "required"
        if field.default is PydanticUndefined and field.default_factory is None
        else _value(field.get_default(call_default_factory=True, validated_data={}))
    )
    default = ELSEWHERE.get(key, default)
    return f"`{key}`", _type(field.annotation, field.metadata), default, _text(field.description)


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        words = _type(arguments[0], arguments[1:])
    elif origin is Literal:
        words = ", ".join(f"`{value}`" for value in arguments)
    elif origin in (Union, types.UnionType):
        words = " or ".join(_type(argument) for argument in arguments)
    elif origin in (tuple, list):
        many = origin is list or arguments[-1] is Ellipsis
        words = f"list of {_type(arguments[0])}" if many else f"[{', '.join(_type(argument) for argument in arguments)}]"
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
    return " ".join(words.replace("``", "`").replace("|", "\\|").split())


def _table(rows: Sequence[tuple[str, ...]] | Iterator[tuple[str, ...]]) -> list[str]:
    return ["| key | what it may be | default | meaning |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
