"""YAML as people write it: nothing is there twice, and a value that looks like a number or a date keeps its spelling.

What a value is, the schema decides (:func:`volgen.core.config.validate`): ``2024``, ``on`` and ``1e5`` are names where a name is wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from volgen.core.tree import each

UNREADABLE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML raises for text that is no YAML, or names a date or a number that there is not."""
_STR, _FLOAT, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "float", "merge"))


class Repeated(Exception):
    """A mapping has a key twice. YAML forbids it; PyYAML would keep the last one and say nothing."""


@dataclass(frozen=True)
class Scalar:
    """A plain value that YAML takes for something else than text.

    Attributes:
        text: spelling of the value in the file.
        value: what YAML makes of it.
    """

    text: str
    value: Any


class _Loader(yaml.SafeLoader):
    """Safe loading, with the numbers of YAML 1.2 (``1e-4`` is one) and keys that are always text."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _check_keys(node)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        made = super().construct_object(node, deep)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return Scalar(node.value, made) if plain and not isinstance(made, str) else made


_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+.0123456789"))


def parse(text: str) -> Any:
    """Text -> mappings, lists, strings, and :class:`Scalar` for everything else.

    Raises:
        Repeated: a key is there twice; the message names it and both lines.
        Exception: one of :data:`UNREADABLE`.
    """
    return yaml.load(text, Loader=_Loader)


def plain(content: Any) -> Any:
    """What :func:`parse` gave, as YAML alone understands it."""
    return each(content, lambda value: value.value if isinstance(value, Scalar) else value)


def _check_keys(root: yaml.Node) -> None:
    """Looks at every mapping once, however often aliases name it, before merge keys (``<<``) are resolved."""
    waiting, seen = [(root, "")], set()
    while waiting:
        node, place = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            waiting += [(item, place) for item in node.value]
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"the key in line {key.start_mark.line + 1} is not a word")
            if key.tag != _MERGE:
                key.tag = _STR
            line, name = key.start_mark.line + 1, f"{place}{key.value}"
            if key.value in lines:
                raise Repeated(f"has '{name}' twice, in line {lines[key.value]} and in line {line}")
            lines[key.value] = line
            waiting.append((value, f"{name}."))
