"""Files that are either whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from volgen.core.errors import UserError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder and with the same suffixes; renamed to ``path`` when the block ends well, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name.removesuffix(suffix)}.", suffix=suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically. A byte of a file name that is no UTF-8 becomes an escape, which JSON reads as the same byte."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON atomically; NaN and infinity are refused, because JSON has no word for them."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str, check: Callable[[Any], bool] = lambda content: isinstance(content, dict)) -> Any:
    """Reads JSON.

    Args:
        path: the file.
        what: what the file should be, for the message.
        check: says whether the content has the right form.

    Raises:
        UserError: the file is missing, cut short or of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", what) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(str(path), f"cannot be read as JSON ({error})", what) from None
    if not check(content):
        raise UserError(str(path), "has another form", what)
    return content


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(content: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form, hexadecimal."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
