"""``study.html``: the page on which readers mark volumes, offline and without a word on which are real."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.files import read_bytes, write_text
from volgen.reporting import page

NAME = "study.html"
LARGEST = 2**31
"""Bytes of a page that is read again."""
_STACK = re.compile(r'<script type="text/plain" id="v(\d+)">([A-Za-z0-9+/=]*)</script>')
_CONTENT = re.compile(r'<script type="application/json" id="content">(.*?)</script>', re.DOTALL)


def encoded_planes(planes: Sequence[NDArray[np.uint8]]) -> str:
    """Grey levels of all slices, one after the other, in base64 and not compressed: as long for every volume of a study."""
    return base64.b64encode(b"".join(plane.tobytes() for plane in planes)).decode()


def write_study(path: Path, content: Mapping[str, Any], stacks: Mapping[int, str] | Sequence[str]) -> None:
    """Writes the page.

    Args:
        path: the file.
        content: what the page asks, of whom and in which order.
        stacks: grey levels of the volumes, by their numbers.
    """
    numbered = dict(enumerate(stacks)) if isinstance(stacks, Sequence) else stacks
    text = json.dumps(content, ensure_ascii=True).replace("<", "\\u003c")
    write_text(path, page.template("readers.html.j2").render(
        content=text, stacks=numbered, adjudication=content["asks"] is not None, marks=content["marks"],
        style=page.resource("style.css"), look=page.resource("readers.css"), script=page.resource("readers.js"),
    ))  # fmt: skip


def read_study(path: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """What a page asks, and its volumes.

    Raises:
        UserError: it is no page of a study.
    """
    expected = f"{NAME} of volgen readers make"
    try:
        text = read_bytes(path, limit=LARGEST).decode()
        found = _CONTENT.search(text)
        content = json.loads(found[1]) if found else None
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"cannot be read ({error})", expected) from None
    if not isinstance(content, dict):
        raise UserError(str(path), "has another form", expected)
    return content, {int(number): stack for number, stack in _STACK.findall(text)}
