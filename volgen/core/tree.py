"""Values inside of mappings and lists, as JSON and YAML have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def each(content: Any, change: Callable[[Any], Any]) -> Any:
    """The same mappings and lists with every other value in them changed; tuples become lists."""
    if isinstance(content, Mapping):
        return {key: each(item, change) for key, item in content.items()}
    if isinstance(content, list | tuple):
        return [each(item, change) for item in content]
    return change(content)
