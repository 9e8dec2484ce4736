"""Files and folders that are either whole or absent, also after a power cut; and files that are opened as nothing but what they are.

What is being written has a name that begins with :data:`UNFINISHED`, and its writer holds a lock on it. So whoever comes across such a
file can tell whether somebody is still at work on it, or died (:func:`sweep`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, Literal

from volgen.core.errors import UserError

UNFINISHED = ".volgen-"
"""Start of the names of files and folders that are being written."""
LARGEST_JSON = 2**28
"""Bytes. The store of a hundred thousand scans has a manifest of half of that."""
SYNCS = 8
"""Files that are synced at a time."""
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
"""What a file system answers that cannot sync, or needs not."""
_PLAIN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FLAGS = {"rb": os.O_RDONLY, "ab+": os.O_RDWR | os.O_CREAT | os.O_APPEND, "r+b": os.O_RDWR}
_FROM_RUST = re.compile(r"\(os error (\d+)\)")
_OF_0_1_0 = re.compile(
    r"\.(manifest|config|geometry|ensemble|phase|weights|preconditioner|preconditioner_training|assembly|privacy_ledger|metrics|report|"
    r"compare|bands|volumes|slices|statement|audit|certificate|plan|deepspeed|launch|dataset_description|README|\.bidsignore|sub-[^.]*)"
    r"\.[a-z0-9_]{8}(\.json|\.jsonl|\.yaml|\.safetensors|\.html|\.csv|\.txt|\.md|\.png|\.nii|\.nii\.gz)?"
)
"""Names that volgen 0.1.0 gave to files that it was writing."""
_FOLDERS_OF_0_1_0 = (".partial-", ".export-")
_later: ContextVar[dict[Path, None] | None] = ContextVar("_later", default=None)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder and with the same suffixes, which becomes ``path`` when the block ends well, else is removed.

    What was written is on the disk before it gets its name, and the name before this returns (but see :func:`synced_together`).

    Raises:
        OSError: it cannot be written; the error names ``path`` where the system or a library named no file.
    """
    make_folder(path.parent)
    temporary, handle = _create(path.parent, "".join(path.suffixes[-2:]))
    try:
        yield temporary
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if stat.S_IMODE(temporary.lstat().st_mode) != mode:  # a library made a file of its own
            temporary.chmod(mode)
        later = _later.get()
        if later is None:
            sync(temporary)
        os.replace(temporary, path)
        if later is None:
            sync(path.parent)
        else:
            later[path] = None
    except Exception as error:
        raise _placed(error, path) from error.__cause__
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def synced_together() -> Iterator[None]:
    """Makes :func:`atomic_path` write without waiting for the disk in this block; everything is synced at its end.

    For many small files that mean nothing before a last one, written after the block, says that they are whole.
    """
    written: dict[Path, None] = {}
    token = _later.set(written)
    try:
        yield
    finally:
        _later.reset(token)
    _sync_all(path for path in {**written, **{path.parent: None for path in written}} if path.exists())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, which becomes ``path`` when the block ends well, else is removed; synced like a file.

    For whoever has the folder around it to himself (:mod:`volgen.core.folder`): nobody can tell whether its writer is alive.

    Raises:
        OSError: it cannot be written, or ``path`` is there already and holds something.
    """
    make_folder(path.parent)
    temporary = path.parent / f"{UNFINISHED}{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        temporary.replace(path)
        sync(path.parent)
    except Exception as error:
        raise _placed(error, path) from error.__cause__
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: Path) -> list[Path]:
    """Makes a folder and those above it, so that what is written into it is not lost with it, and returns the new ones, innermost first."""
    missing: list[Path] = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        missing.append(folder)
    later = _later.get()
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            if later is None:
                with suppress(FileNotFoundError):  # another process has just removed it
                    sync(folder.parent)
            else:
                later[folder] = None
    except OSError as error:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise OSError(error.errno, error.strerror, str(path)) from None
    return missing


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk. A file system that cannot say so is believed.

    The path may be a link: a folder that a user has named, or one above it, often lies on another disk. Nothing is read or written here.

    Raises:
        OSError: they are not: the disk is full or broken.
    """
    try:
        handle = os.open(path, os.O_RDONLY | (_PLAIN & ~os.O_NOFOLLOW))
    except PermissionError:  # it may be written, but not read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """:func:`sync` for all that is in a folder, and for itself."""
    _sync_all(Path(root, name) for root, _, names in os.walk(folder) for name in (*names, "."))


def _sync_all(paths: Iterable[Path]) -> None:
    """Syncs in any order, several at a time: a journal takes what comes together in one go, five times as quick as one after another."""
    with ThreadPoolExecutor(SYNCS) as pool:
        for _ in pool.map(sync, paths):
            pass


def sweep(folder: Path, *, alone: bool = False, deep: bool = True) -> list[Path]:
    """Removes what dead processes have left of files that they were writing, and returns what that was.

    Args:
        folder: one that volgen writes.
        alone: nobody else writes there now. Then unfinished folders go too, and what volgen 0.1.0 left, which has no lock to tell by.
        deep: also in the folders below it.
    """
    removed: list[Path] = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        for name in list(folders):
            if name.startswith((UNFINISHED, *_FOLDERS_OF_0_1_0)) and not (here / name).is_symlink():
                folders.remove(name)
                if alone:
                    shutil.rmtree(here / name, ignore_errors=True)
                    removed.append(here / name)
        for name in names:
            path = here / name
            if (name.startswith(UNFINISHED) and _abandoned(path)) or (alone and _OF_0_1_0.fullmatch(name)):
                path.unlink(missing_ok=True)
                removed.append(path)
        if not deep:
            break
    return removed


def unfinished(name: str) -> bool:
    """Whether a file or folder is called as what is being written is, by this volgen or by 0.1.0."""
    return name.startswith((UNFINISHED, *_FOLDERS_OF_0_1_0)) or _OF_0_1_0.fullmatch(name) is not None


def open_plain(
    path: Path, mode: Literal["rb", "ab+", "r+b"] = "rb", *, limit: int | None = None, follow: bool = False, buffering: int = -1
) -> IO[bytes]:
    """Opens a file that may have come from elsewhere. It is neither followed if it is a link, nor waited for if it is a pipe.

    Args:
        path: the file.
        mode: ``mode`` of :func:`open`.
        limit: largest size in bytes.
        follow: whether it may be a link: only for what a user has named himself.
        buffering: ``buffering`` of :func:`open`.

    Raises:
        OSError: it cannot be opened, is a link (``ELOOP``), no regular file (``EINVAL``, ``EISDIR``) or too large (``EFBIG``).
    """
    flags = _FLAGS[mode] | (_PLAIN & ~os.O_NOFOLLOW if follow else _PLAIN)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(errno.ELOOP, "is a link, and volgen follows none among its own files", str(path)) from None
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "is not a regular file", str(path)) from None
        if error.errno == errno.EISDIR:
            raise OSError(errno.EISDIR, "is a folder", str(path)) from None
        raise
    try:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            raise OSError(errno.EISDIR, "is a folder", str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if limit is not None and found.st_size > limit:
            raise OSError(errno.EFBIG, f"has {found.st_size} bytes, more than the {limit} that make sense", str(path))
        return os.fdopen(handle, mode, buffering=buffering)
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path, *, limit: int, follow: bool = False) -> bytes:
    """Content of a file of at most ``limit`` bytes, opened by :func:`open_plain`.

    Raises:
        OSError: see there.
    """
    with open_plain(path, limit=limit, follow=follow) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:  # it has no size, or grew
        raise OSError(errno.EFBIG, f"has more than the {limit} bytes that make sense", str(path))
    return content


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically. A byte of a file name that is no UTF-8 becomes an escape, which JSON reads as the same byte."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON atomically; NaN and infinity are refused, because JSON has no word for them."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(
    path: Path,
    what: str,
    check: Callable[[Any], bool] = lambda content: isinstance(content, dict),
    *,
    limit: int = LARGEST_JSON,
    follow: bool = False,
) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        what: what the file should be, for the message.
        check: says whether the content has the right form.
        limit: largest size in bytes.
        follow: whether it may be a link: only for what a user has named himself.

    Raises:
        UserError: the file is missing, cut short, too large, of another form, or a link, a pipe and the like.
    """
    try:
        content = json.loads(read_bytes(path, limit=limit, follow=follow).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", what) from None
    except OSError as error:
        raise UserError(str(path), f"cannot be read as JSON ({error.strerror or error})", what) from None
    except (ValueError, RecursionError) as error:
        raise UserError(str(path), f"cannot be read as JSON ({error})", what) from None
    if not check(content):
        raise UserError(str(path), "has another form", what)
    return content


def sha256(path: Path, *, limit: int | None = None, follow: bool = False) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Args:
        path: the file.
        limit: largest size in bytes.
        follow: whether it may be a link: only for what a user has named himself.

    Raises:
        OSError: it cannot be read, or is not a file of its own (:func:`open_plain`).
    """
    with open_plain(path, limit=limit, follow=follow) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def check_digest(path: Path, digest: str | None, record: str, *, what: str, do: str, limit: int | None = None) -> str:
    """SHA-256 of a file, which is the one that a record has of it.

    Args:
        path: the file.
        digest: what the record says; None where there is no record of this file, and any content will do.
        record: name of the record, for messages.
        what: what the file should be, for messages.
        do: what a user can do about a damaged one.
        limit: largest size in bytes.

    Raises:
        UserError: it is missing, too large or no regular file, or was changed.
    """
    try:
        found = sha256(path, limit=limit)
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", what, do) from None
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror or error})", what, do) from None
    if digest is not None and found != digest:
        raise UserError(str(path), f"has SHA-256 {found[:12]}...", f"{digest[:12]}..., as {record} says: it was changed", do)
    return found


def fingerprint(content: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form, hexadecimal."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _create(folder: Path, suffix: str) -> tuple[Path, int]:
    """A new file that begins with :data:`UNFINISHED`, locked, so that :func:`sweep` leaves it alone."""
    while True:
        path = folder / f"{UNFINISHED}{secrets.token_hex(4)}{suffix}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o666)
        except FileExistsError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: nobody can take this file for abandoned either
            return path, handle
        if is_at(handle, path):  # else it was swept away between the two lines
            return path, handle
        os.close(handle)


def _abandoned(path: Path) -> bool:
    """Whether nobody holds the lock of an unfinished file."""
    try:
        handle = os.open(path, os.O_RDWR | _PLAIN)
    except OSError as error:
        return error.errno == errno.ELOOP  # nobody writes links
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return is_at(handle, path)
    except OSError:
        return False
    finally:
        os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of this name, and not one that was removed."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _placed(error: Exception, path: Path) -> Exception:
    """The same error with the file's name, where a library has lost it: a full disk is of no use without its place."""
    if isinstance(error, OSError):
        if error.filename is None and error.errno is not None:
            return OSError(error.errno, error.strerror or os.strerror(error.errno), str(path))
        return error
    if (code := _FROM_RUST.search(str(error))) and not isinstance(error, UserError):
        return OSError(int(code[1]), os.strerror(int(code[1])), str(path))
    return error
