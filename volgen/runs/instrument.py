"""What manifests and sidecars say of an operator: its files by name and checksum, wherever on the machine they lay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from volgen.core.config import Config
from volgen.core.files import sha256

OPERATOR, FILES = "operator", "operator_files"
"""Keys of settings: the operator, and the SHA-256 of the files that it reads, by dotted key."""


def told_of_operator(operator: Config) -> dict[str, Any]:
    """Settings that say which operator it is. A file that is not there has no checksum: whoever builds the operator says so."""
    content = operator.model_dump(mode="json")
    for key in operator.named_files:
        _change(content, key, _name)
    digests = {key: sha256(path, follow=True) for key, path in operator.named_files.items() if path.is_file()}
    return {OPERATOR: content, **({FILES: digests} if digests else {})}


def as_told(before: Any, mine: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in a manifest, as they are told now: volgen 0.3.0 had files by their places, and no checksums of parts of a composed one.

    Args:
        before: settings as they were written, by whomever.
        mine: those that they are compared with.
    """
    content: dict[str, Any] = json.loads(json.dumps(before)) if isinstance(before, Mapping) else {}
    files = mine.get(FILES, {})
    places: dict[str, Any] = {}
    for key in files:
        _change(content.get(OPERATOR), key, partial(_noted, places, key))
    # What a part of a composed one read then is only known from what lies there still.
    if FILES not in content and files and all("." in key for key in files):
        there = {key: Path(place) for key, place in places.items() if isinstance(place, str)}
        if all(key in there and there[key].is_file() and sha256(there[key], follow=True) == digest for key, digest in files.items()):
            content[FILES] = files
    return content


def _name(place: Any) -> Any:
    return PurePath(place).name if isinstance(place, str) else place


def _noted(places: dict[str, Any], key: str, place: Any) -> Any:
    """The name of a file, whose place is kept."""
    places[key] = place
    return _name(place)


def _change(content: Any, key: str, change: Callable[[Any], Any]) -> None:
    """Changes what a dotted key leads to, if it leads anywhere."""
    *places, last = key.split(".")
    for place in places:
        if isinstance(content, list):
            content = content[int(place)] if place.isdigit() and int(place) < len(content) else None
        else:
            content = content.get(place) if isinstance(content, dict) else None
    if isinstance(content, dict) and last in content:
        content[last] = change(content[last])
