"""A seal on JSON that numbers depend on: a SHA-256 of the content in the content, so that a digit that was changed is noticed.

It protects against disks and editors, not against people, who can write another one. Files of 0.1.0 have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from volgen.core.errors import UserError
from volgen.core.files import fingerprint, read_json

KEY = "seal"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its seal, to be written as JSON."""
    bare = {key: value for key, value in content.items() if key != KEY}
    return {**bare, KEY: fingerprint(bare)}


def fits(content: Mapping[str, Any]) -> bool:
    """Whether a content is what was sealed; a content without a seal is not."""
    try:
        return bool(content.get(KEY) == sealed(content)[KEY])
    except ValueError:  # NaN
        return False


def read_sealed(
    path: Path,
    what: str,
    do: str,
    *,
    limit: int,
    needed: Callable[[Mapping[str, Any]], bool] = lambda content: False,
    check: Callable[[Any], bool] = lambda content: isinstance(content, dict),
    follow: bool = False,
) -> dict[str, Any]:
    """Reads a JSON object; the seal is compared, if there is one, and taken off.

    Args:
        path: the file.
        what: what the file should be, for messages.
        do: what a user can do about a damaged one.
        limit: largest size in bytes.
        needed: whether this content must have a seal: only a version that sealed it can have written it.
        check: whether it has the right form.
        follow: a link to the file is read too: it is one that a user names.

    Raises:
        UserError: the file is missing, of another form, or was changed after it was written.
    """
    content: dict[str, Any] = read_json(path, what, check, limit=limit, follow=follow)
    if (KEY in content or needed(content)) and not fits(content):
        raise UserError(str(path), "was changed after it was written: its seal does not fit its content", what, do)
    return {key: value for key, value in content.items() if key != KEY}
