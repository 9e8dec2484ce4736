"""What a user names where something may be in a folder or behind an address."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def folder_or_address(named: str | os.PathLike[str]) -> Path | str:
    """A path, or the text of an address, which has ``://`` in it."""
    return named if isinstance(named, str) and "://" in named else Path(named)


Address = Annotated[Path | str, AfterValidator(folder_or_address)]
"""Type of an option that names a folder or an address."""
