"""Typed, strict configuration: YAML in, frozen pydantic models out.

An unknown key is an error that names the nearest valid key; overrides are dotted (``--experts.count 8``) and are applied to the
mapping before it is validated, so a value from the command line and one from the file go the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from volgen.core.errors import UserError, nearest

T = TypeVar("T", bound="Config")
UNREADABLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML raises for text that is no YAML, or names a date or a number that there is not."""
LARGEST = 20_000
"""Values of a configuration. An alias is a whole copy once it is read: thirty lines of them could fill any memory."""


class Config(BaseModel):
    """Base of every configuration class: unknown keys are refused, values are checked, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping with ``yaml.safe_load``.

    Raises:
        UserError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", "a YAML configuration", "see configs/ for examples") from None
    except (OSError, *UNREADABLE) as error:
        raise UserError(str(path), f"cannot be read as YAML ({' '.join(str(error).split())})", "a YAML mapping") from None
    if not isinstance(content, dict):
        raise UserError(str(path), f"holds a {type(content).__name__}", "a YAML mapping of sections", "see configs/ for examples")
    if _too_large(content):
        raise UserError(str(path), f"has more than {LARGEST} values", "a configuration", "write its aliases (*name) out")
    return content


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A copy of ``content`` with dotted ``(key, YAML text)`` overrides set.

    A section whose ``kind`` changes drops the keys of the old kind: they would not be valid for the new one.
    """
    result: dict[str, Any] = _copy(content)
    # `kind` first, so that `--sampler.eta 0 --sampler.kind ddim` means the same in either order.
    for dotted, text in sorted(overrides, key=lambda pair: not pair[0].endswith(".kind")):
        *parents, leaf = dotted.split(".")
        section = result
        for name in parents:
            child = section.setdefault(name, {})
            if not isinstance(child, dict):
                raise UserError(f"--{dotted}", f"'{name}' is a {type(child).__name__} in the configuration", "a section")
            section = child
        try:
            value = yaml.safe_load(text)
        except UNREADABLE:
            value = text
        if leaf == "kind" and section.get("kind", value) != value:
            section.clear()
        section[leaf] = _number(value)
    return result


def validate(cls: type[T], content: Mapping[str, Any], where: str) -> T:
    """Validates a mapping against a configuration class.

    Raises:
        UserError: names the key, what was found, what was expected and the nearest valid key.
    """
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_url=False)
        first = details[0]
        path = [str(part) for part in first["loc"]]
        more = f" ({len(details) - 1} more after this one)" if len(details) > 1 else ""
        if first["type"] == "extra_forbidden":
            siblings = _keys_at(cls, first["loc"][:-1])
            found = f"unknown key '{'.'.join(path)}'{more}"
            raise UserError(where, found, "a key of the configuration", nearest(path[-1], siblings)) from None
        if first["type"] == "union_tag_invalid":
            context = first.get("ctx", {})
            options = [word.strip("' ") for word in str(context.get("expected_tags", "")).split(",")]
            tag = str(context.get("tag", "?"))
            raise UserError(where, f"{'.'.join(path)}.kind is '{tag}'{more}", "a known kind", nearest(tag, options)) from None
        message = first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] in ("missing", "value_error") else f" (found {first['input']!r})"
        raise UserError(where, f"{'.'.join(path) or 'configuration'}: {message}{found}{more}") from None


def dump_yaml(config: Config) -> str:
    """The resolved configuration as YAML, every default written out."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _too_large(content: Any) -> bool:
    left, count = [content], 0
    while left and count <= LARGEST:
        value = left.pop()
        count += 1
        left += value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple | set) else ()
    return count > LARGEST


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-4`` as text; people write it as a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _keys_at(cls: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Field names valid at a location of a validation error (union tags and indices are stepped over)."""
    models: list[type[BaseModel]] = [cls]
    for part in location:
        inner = [m for model in models if part in model.model_fields for m in _models_in(model.model_fields[str(part)].annotation)]
        tagged = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        models = inner or tagged or models
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
