"""Typed, strict configuration: YAML in, frozen pydantic models out.

An unknown key is an error that names the nearest valid key; overrides are dotted (``--experts.count 8``) and are applied to the
mapping before it is validated, so a value from the command line and one from the file go the same way. A value is what the schema
wants it to be: ``name: 2024`` is the name "2024".
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Literal, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from volgen.core.errors import UserError, nearest_word
from volgen.core.files import read_bytes
from volgen.core.limits import CONFIG_BYTES
from volgen.core.search import Search
from volgen.core.yaml_text import UNREADABLE, Repeated, Scalar, parse, plain

T = TypeVar("T", bound="Config")
Overrides = Sequence[tuple[str, Any]]
"""Dotted keys and YAML text, or values that are no text."""
SHOWN = 200
"""Characters of a value that messages repeat."""
LARGEST = 20_000
"""Values of a configuration. An alias is a whole copy once it is read: thirty lines of them could fill any memory."""


class Config(BaseModel):
    """Base of every configuration class: unknown keys are refused, values are checked, instances are immutable.

    Attributes:
        searched: where ``volgen tune`` looks for values of its keys, by key; nothing unless a kind says so.
    """

    searched: ClassVar[Mapping[str, Search]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @property
    def named_files(self) -> dict[str, Path]:
        """Files of the machine that its keys name, by dotted key."""
        found: dict[str, Path] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Path):
                found[name] = value
            elif isinstance(value, Config):
                found.update({f"{name}.{key}": path for key, path in value.named_files.items()})
        return found


class MayChange:
    """Marks an option that may change when what was begun with it is continued: it touches numbers by rounding at most.

    ``store: Annotated[str, MAY_CHANGE]``. What a store or a run holds has fingerprints, so that the place of one may change.
    """


MAY_CHANGE = MayChange()


def changeable(config: Config, prefix: str = "") -> set[str]:
    """Dotted keys of a configuration that are marked with :data:`MAY_CHANGE`."""
    found = set()
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if any(isinstance(mark, MayChange) for mark in field.metadata):
            found.add(f"{prefix}{name}")
        elif isinstance(value, Config):
            found |= changeable(value, f"{prefix}{name}.")
    return found


def load(cls: type[T], path: Path, overrides: Overrides = (), *, own: bool = False) -> T:
    """A configuration from a YAML file, with dotted overrides.

    Args:
        cls: class of the configuration.
        path: the file.
        overrides: dotted keys and values.
        own: see :func:`read_typed`.

    Raises:
        UserError: says which key is wrong and what would be right.
    """
    return validate(cls, apply_overrides(read_typed(path, own=own), overrides), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping safely, as YAML alone understands it.

    Raises:
        UserError: the file is missing, is not YAML, has a key twice, or is not a mapping.
    """
    content: dict[str, Any] = plain(read_typed(path))
    return content


def read_typed(path: Path, *, own: bool = False) -> dict[str, Any]:
    """The same, for :func:`validate`: values keep their spelling until the schema is asked.

    Args:
        path: the file.
        own: one of volgen's files in a folder, which may be anybody's, rather than one that a user has named: no link or pipe will do.

    Raises:
        UserError: see :func:`read_yaml`.
    """
    try:
        content = parse((read_bytes(path, limit=CONFIG_BYTES) if own else _named(path)).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", "a YAML configuration", "see configs/ for examples") from None
    except Repeated as error:
        raise UserError(str(path), str(error), "each key once", "delete or rename one of them") from None
    except OSError as error:
        raise UserError(str(path), f"cannot be read as YAML ({error.strerror or error})", "a YAML mapping") from None
    except UNREADABLE as error:
        raise UserError(str(path), f"cannot be read as YAML ({' '.join(str(error).split())})", "a YAML mapping") from None
    if not isinstance(content, dict):
        kind = type(content.value if isinstance(content, Scalar) else content).__name__
        found = "holds nothing" if content is None else f"holds a {kind}"
        raise UserError(str(path), found, "a YAML mapping of sections", "see configs/ for examples")
    if _too_large(content):
        raise UserError(str(path), f"has more than {LARGEST} values", "a configuration", "write its aliases (*name) out")
    return content


def apply_overrides(content: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """A copy of ``content`` with dotted overrides set: ``(key, YAML text)``, or ``(key, value)`` if the value is no text.

    A section whose ``kind`` changes drops the keys of the old kind: they would not be valid for the new one. Of a key that is given
    twice the last one counts, as with every option: scripts append what their caller typed.

    Raises:
        UserError: a key goes through something that is no section, or the text has a key twice.
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
        value = text if leaf == "kind" else _typed(dotted, text)
        if leaf == "kind" and section.get("kind", value) != value:
            section.clear()
        section[leaf] = value
    return result


def validate(cls: type[T], content: Mapping[str, Any], where: str, *, called: Callable[[str], str] = str) -> T:
    """Validates a mapping against a configuration class.

    Args:
        cls: class of the configuration.
        content: keys and values.
        where: where they come from, for messages.
        called: what messages call a key.

    Raises:
        UserError: names the key, what was found, what was expected and the nearest valid key.
    """
    try:
        return cls.model_validate(_settled(content, cls))
    except ValidationError as error:
        details = error.errors(include_url=False)
        first = details[0]
        path = [str(part) if place else called(str(part)) for place, part in enumerate(first["loc"])]
        more = f" ({len(details) - 1} more after this one)" if len(details) > 1 else ""
        if first["type"] == "extra_forbidden":
            siblings = _keys_at(cls, first["loc"][:-1])
            found = f"unknown key '{'.'.join(path)}'{more}"
            raise UserError(where, found, "a key of the configuration", nearest_word(path[-1], siblings)) from None
        if first["type"] == "union_tag_invalid":
            context = first.get("ctx", {})
            options = [word.strip("' ") for word in str(context.get("expected_tags", "")).split(",")]
            tag = str(context.get("tag", "?"))
            raise UserError(where, f"{'.'.join(path)}.kind is '{tag}'{more}", "a known kind", nearest_word(tag, options)) from None
        message = first["msg"].removeprefix("Value error, ")
        given = "nothing" if first["input"] is None else shorten(repr(first["input"]), SHOWN)
        found = "" if first["type"] in ("missing", "value_error") else f" (found {given})"
        raise UserError(where, f"{'.'.join(path) or 'configuration'}: {message}{found}{more}") from None


def three(value: Any) -> Any:
    """Edges of a grid as people write them, for a validator: ``40 48 40``, ``40,48,40``, ``[40, 48, 40]``, or ``40`` for a cube."""
    values = value.strip("[]() ").replace(",", " ").split() if isinstance(value, str) else [value] if isinstance(value, int) else value
    return list(values) * 3 if isinstance(values, list | tuple) and len(values) == 1 else values


def dump_yaml(config: Config) -> str:
    """The resolved configuration as YAML, every default written out."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _named(path: Path) -> bytes:
    """What a user has named may be a link or a pipe (``--config <(envsubst < c.yaml)``)."""
    with path.open("rb") as stream:
        content = stream.read(CONFIG_BYTES + 1)
    if len(content) > CONFIG_BYTES:
        raise OSError(errno.EFBIG, f"has more than the {CONFIG_BYTES} bytes that make sense", str(path))
    return content


def _too_large(content: Any) -> bool:
    left, count = [content], 0
    while left and count <= LARGEST:
        value = left.pop()
        count += 1
        left += value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple | set) else ()
    return count > LARGEST


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _typed(dotted: str, text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return parse(text)
    except Repeated as error:
        raise UserError(f"--{dotted}", str(error), "each key once") from None
    except UNREADABLE:
        return text


def _settled(value: Any, annotation: Any) -> Any:
    """A value with every :class:`Scalar` in it replaced by what the schema has a place for: YAML's value, or else the text."""
    if isinstance(value, Mapping):
        models = _models_in(annotation)
        chosen = [model for model in models if "kind" in value and _kind(model) == value["kind"]] or models
        wanted = {name: field.annotation for model in chosen for name, field in model.model_fields.items()}
        return {key: _settled(item, wanted.get(key, Any if models else annotation)) for key, item in value.items()}
    if isinstance(value, list):
        return [_settled(item, annotation) for item in value]
    if not isinstance(value, Scalar):
        return value
    types = _types_in(annotation)
    if object in types:  # a section whose schema is asked later
        return value
    if types & {int, float}:
        types |= {int, float}
    return value.value if Any in types or type(value.value) in types or not value.text else value.text


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _types_in(annotation: Any) -> set[Any]:
    """The plain types of an annotation; of a literal those of its values."""
    parts = getattr(annotation, "__args__", ())
    if get_origin(annotation) is Literal:
        return {type(value) for value in parts}
    return {kind for part in parts for kind in _types_in(part)} if parts else {annotation}


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
