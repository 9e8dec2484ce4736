"""The one door to HDF5, in which raw data of scanners come: whole arrays of a file, and nothing of another.

A file from elsewhere may have links to other files, arrays whose bytes lie in others, and sizes that no machine has: all are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.core.files import open_plain

LARGEST_BYTES = 2**35
"""Bytes of an array: 32 coils of a scan of 512^3 have half of that."""
WHAT = "raw data of a scanner"


class RawFile:
    """An HDF5 file that is open.

    Args:
        path: where it is.
        file: what h5py has of it.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file

    def has(self, name: str) -> bool:
        """Whether there is an array or a group of this name, whose parts are ``/`` apart; links count as nothing."""
        here: Any = self._file
        for part in name.split("/"):
            if not isinstance(here, h5py.Group) or not isinstance(here.get(part, getlink=True), h5py.HardLink):
                return False
            here = here[part]
        return True

    def groups(self) -> list[str]:
        """Names of the groups at the top."""
        return [name for name in self._file if self.has(name) and isinstance(self._file[name], h5py.Group)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, before any of it is read.

        Raises:
            UserError: see :meth:`read`.
        """
        return tuple(self._array(name).shape)

    def read(self, name: str) -> NDArray[Any]:
        """All of an array.

        Raises:
            UserError: there is none, its bytes lie elsewhere, or it is too large.
        """
        return np.asarray(self._array(name)[()])

    def _array(self, name: str) -> Any:
        found = self._file[name] if self.has(name) else None
        if not isinstance(found, h5py.Dataset):
            raise UserError(str(self.path), f"holds no array '{name}', or a link in its place", WHAT)
        if found.is_virtual or found.external:
            raise UserError(str(self.path), f"'{name}' lies in other files, which are not read", "one file that holds all", "copy it whole")
        size = math.prod(found.shape or ()) * found.dtype.itemsize
        if found.shape is None or size > LARGEST_BYTES:
            raise UserError(str(self.path), f"claims {size} bytes for '{name}'", f"at most {LARGEST_BYTES}")
        return found


@contextmanager
def open_hdf5(path: Path) -> Iterator[RawFile]:
    """Opens a file for the length of a block, in which everything that HDF5 finds wrong with it becomes one message.

    Raises:
        UserError: it is missing, is not HDF5, or is damaged.
    """
    try:
        with open_plain(path, follow=True) as stream, h5py.File(stream, "r") as file:
            yield RawFile(path, file)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", WHAT) from None
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, MemoryError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(str(path), f"cannot be read as HDF5 ({said})", WHAT, "copy it again") from None
