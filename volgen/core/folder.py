"""Who owns an output folder: one command at a time, which has made sure that what is in it is its own or nothing.

Every command that writes a folder claims it here. A claim holds the lock of the folder, has refused what is somebody else's without
touching it, follows no link out of it, and has removed what a killed command left behind. A command that fails before it has written
anything leaves nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from volgen.core.errors import UserError
from volgen.core.files import make_folder, sweep, sync, unfinished, write_json
from volgen.core.lock import Lock, holder
from volgen.core.manifest import FILES, NAME, Provenance, checksums, files_in, read
from volgen.core.seal import sealed

LOCK = ".lock"
"""Name of the file that a folder has while a command writes to it."""
COMPLETE = "complete"
"""Key of a manifest: false while a command writes, so that a folder that is left half-way says whose it is. Not there in 0.1.0: true."""
ELSEWHERE = "choose another --out"


class Folder:
    """A folder that is claimed (:func:`claim`).

    Attributes:
        path: where the folder is.
        before: the manifest that was there, None if there was none.
        worthless: whether what is there is half of something that is made anew.
        finished: whether :meth:`finish` has been called.
    """

    def __init__(
        self,
        path: Path,
        provenance: Provenance,
        writes: Callable[[str], bool],
        before: Mapping[str, Any] | None,
        worthless: bool = False,
    ) -> None:
        self.path, self.before, self.worthless, self.finished = path, before, worthless, False
        self._provenance, self._writes = provenance, writes

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files that were there, as the manifest says; empty without a manifest, or in one of 0.1.0."""
        files = (self.before or {}).get(FILES)
        return dict(files) if isinstance(files, dict) else {}

    def begin(self, **more: Any) -> None:
        """Says whose the folder is, before the first file is written; ``more`` are keys of the command's own."""
        self._provenance.write(self.path, **{COMPLETE: False}, **more, **({FILES: self.files} if self.files else {}))

    def clear(self) -> None:
        """Removes what such a command has written before; nothing else."""
        for path in self.path.iterdir():
            if self._writes(path.name) and path.name != NAME:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        try:
            sync(self.path)  # the manifest, which says whose the folder is, goes last
        finally:  # on a disk that takes nothing more, too
            (self.path / NAME).unlink(missing_ok=True)
        self.before, self.worthless = None, False

    def abandon(self, *, everything: bool) -> None:
        """Removes what a failed command leaves in a folder that was empty: all of it, or the manifest if there is nothing else."""
        with suppress(OSError):  # the error that ended the command is the one to be told
            sweep(self.path, alone=True)
            if everything:
                self.clear()
            elif {path.name for path in self.path.iterdir()} <= {NAME, LOCK}:
                (self.path / NAME).unlink(missing_ok=True)

    def amend(self, names: Collection[str]) -> None:
        """Enters files that were written into somebody's finished folder, such as a new statement beside samples, into its manifest."""
        if self.before is not None and FILES in self.before:
            write_json(self.path / NAME, sealed({**self.before, FILES: {**self.files, **checksums(self.path, names)}}))

    def finish(self, kept: Collection[str] = (), **more: Any) -> dict[str, Any]:
        """Writes the final manifest, with the SHA-256 of all files, and returns its content.

        Args:
            kept: files that this command found and has not written: what the manifest before said of them still holds.
            more: keys of the command's own.
        """
        sweep(self.path, alone=True)
        names = [name for name in files_in(self.path) if self._writes(name.partition("/")[0])]
        files = checksums(self.path, names, {name: digest for name, digest in self.files.items() if name in kept})
        content = self._provenance.write(self.path, **{COMPLETE: True}, **more, **{FILES: files})
        self.finished = True
        return content


@contextmanager
def claim(
    out: Path,
    provenance: Provenance,
    noun: str,
    *,
    writes: Callable[[str], bool],
    differs: Callable[[Mapping[str, Any]], str],
    expected: str = "",
    strangers: bool = False,
    keeps: Callable[[], bool] = lambda: False,
    elsewhere: str = ELSEWHERE,
) -> Iterator[Folder]:
    """Claims a folder that gets a manifest, for the length of a block, in which :meth:`Folder.begin` and :meth:`Folder.finish` are called.

    Args:
        out: the folder; made if it is not there.
        provenance: what the command says of itself in the manifest.
        noun: what the folder is for, such as ``a report``.
        writes: whether the command writes a file or folder of this name.
        differs: given the manifest of a folder, says how its content is that of another command or question; empty if it is this one's.
        expected: what should have been there instead, for messages.
        strangers: whether files of other names are welcome where there is a manifest of this command's.
        keeps: whether what is there of unfinished work is worth keeping: only the same command may go on with it then. Else it is removed
            if the block fails, and what a killed command left is removed by the next one, whatever that is asked.
        elsewhere: what a user can do who is refused.

    Raises:
        UserError: it is somebody else's, holds a link, another process is writing to it, or its file system keeps no locks.
        OSError: it cannot be written.
    """
    expected = expected or "an empty or new folder"

    def judge() -> Folder:
        names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        others = [name for name in names if not writes(name) and name != NAME]
        if NAME not in names:
            if names:  # whatever they are called: they may be anybody's
                raise UserError(str(out), f"holds other files ({(others or names)[0]})", expected, elsewhere)
            return Folder(out, provenance, writes, None)
        before: Mapping[str, Any] = read(out, f"the manifest of {noun}", f"restore it from a copy, or {elsewhere}")
        if others and not strangers:
            raise UserError(str(out), f"holds other files ({others[0]})", expected, elsewhere)
        half = not others and before.get(COMPLETE) is False and before.get("stage") == provenance.command and not keeps()
        if not half and (found := differs(before)):
            raise UserError(str(out), found, expected, elsewhere)
        return Folder(out, provenance, writes, before, worthless=half)

    with own(out, noun, judge, elsewhere=elsewhere):
        folder = judge()
        if folder.worthless:
            folder.clear()
        fresh = folder.before is None
        try:
            yield folder
        except BaseException:
            if fresh and not folder.finished:
                folder.abandon(everything=not keeps())
            raise


@contextmanager
def own(out: Path, noun: str, judge: Callable[[], object], *, deep: bool = True, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Has a folder to itself for the length of a block; for folders without a manifest, or whose manifest marks them as finished.

    Args:
        out: the folder; made if it is not there.
        noun: what it is for.
        judge: raises if it is somebody else's; asked before anything is written, and again by whoever holds the lock.
        deep: whether folders in it are looked at too.
        elsewhere: what a user can do who is refused.

    Raises:
        UserError: it is somebody else's, holds a link, another process is writing to it, or its file system keeps no locks.
        OSError: it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(str(out), "is a file", f"a folder for {noun}", elsewhere)
    if out.is_dir():
        judge()
    made = make_folder(out)
    try:
        lock = Lock.take(out / LOCK)
        if lock is None:
            who = holder(out / LOCK) or "another process"
            raise UserError(str(out), f"is being written by {who}", "one command at a time", f"wait for it to end, or {elsewhere}")
        try:
            judge()
            refuse_links(out, deep=deep, elsewhere=elsewhere)
            sweep(out, alone=True, deep=deep)
            yield
        finally:
            lock.release(remove=True)
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def refuse_links(folder: Path, *, deep: bool = True, elsewhere: str = ELSEWHERE) -> None:
    """Makes sure that what is written into a folder stays there, and that nothing in it is waited for for ever.

    Raises:
        UserError: names the first link, pipe, socket or device in it.
    """
    do = f"replace it by what it points to, or {elsewhere}"
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise UserError(entry.path, "is a link, and volgen follows none among its own files", "a file or a folder", do)
            if entry.is_dir():
                if deep and not unfinished(entry.name):
                    refuse_links(Path(entry.path), elsewhere=elsewhere)
            elif not entry.is_file():
                raise UserError(entry.path, "is neither a file nor a folder", "files and folders", elsewhere)
