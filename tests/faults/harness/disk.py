"""What a command did to a folder, system call by system call, and what a disk may hold if the power goes after any of them.

``strace`` records every call that writes, names or syncs (whatever library makes it); :class:`Recording` replays them. Two disks bound what
file systems promise (those that write file data after the names, as ext4 and XFS do with delayed allocation, and those that write names
in their own time): what a program has not synced may be there or not. :meth:`Recording.check` compares a whole replay with the folder as
it really is, so that a call which the recorder does not know shows at once.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Loss = Literal["data", "names", "folders", "mixed", "nothing"]
"""What a cut takes of what was not synced. ``data``: all file data, while every name is on the disk. ``names``: that, and all names since
the last sync of anything, as with a journal. ``folders``: that, and all names in folders that were not synced themselves, which POSIX
allows. ``mixed``: some names and parts of files, by chance. ``nothing``: the processes were killed, but the disk lives on."""

CALLS = (
    "open", "openat", "creat", "close", "dup", "dup2", "dup3", "fcntl", "lseek", "write", "pwrite64", "writev", "pwritev", "pwritev2",
    "sendfile", "copy_file_range", "truncate", "ftruncate", "fallocate", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
    "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "fsync", "fdatasync", "sync", "syncfs", "execve",
)  # fmt: skip


def tracer(log: Path) -> list[str]:
    """The command line that another command is recorded with; each thread's calls go to a file of its own, ``log.THREAD``."""
    longest = "100000000"
    times = "--absolute-timestamps=format:unix,precision:ns"
    return ["strace", "-f", "-ff", "-y", "-xx", "-s", longest, "--seccomp-bpf", times, "-e", f"trace={','.join(CALLS)}",
            "-e", "signal=none", "-qq", "-T", "-o", str(log)]  # fmt: skip


@dataclass
class File:
    """One file, whatever it is called: its content after each call that changed it, and when it was synced."""

    versions: list[tuple[int, bytes]]
    synced: list[int] = field(default_factory=list)

    def at(self, step: int) -> bytes:
        """The content that programs see after so many calls."""
        return next(content for when, content in reversed(self.versions) if when <= step)

    def safe(self, step: int) -> bytes:
        """The content that is on the disk for certain: of the last sync, or none."""
        before = [when for when in self.synced if when <= step]
        return self.at(before[-1]) if before else b""


Tree = dict[str, "File | Tree"]
State = dict[str, bytes | None]
"""Paths and the content of their files; None for a folder."""


@dataclass(frozen=True)
class Naming:
    """A call that changed names."""

    step: int
    what: Literal["create", "folder", "rename", "remove"]
    path: str
    file: File | None = None
    target: str = ""


class Recording:
    """The calls of one command below one folder, which was empty or absent before.

    Args:
        logs: files that strace wrote of the command.
        root: the folder.
    """

    def __init__(self, logs: Sequence[Path], root: Path) -> None:
        self._root = str(root)
        self._names: list[Naming] = []
        self._files: list[File] = []
        self._syncs: list[int] = []
        self._synced_folders: dict[str, list[int]] = {}
        self.steps = 0
        """Calls below the folder: a cut can come before the first and after each."""
        self.told: list[str] = []
        """Each call, for people."""
        self._tree: Tree = {}
        self._handles: dict[int, _Handle] = {}
        for call in sorted(_calls(logs)):
            self._take(call)
        del self._handles

    def state(self, step: int, loss: Loss, seed: int = 0) -> State:
        """What the disk holds if the power goes after ``step`` calls (or, with ``nothing``, what a kill leaves)."""
        last_sync = max((when for when in self._syncs if when <= step), default=0)
        draw = random.Random(f"{seed}/{step}")
        names = {"names": last_sync, "mixed": draw.randint(last_sync, step)}.get(loss, step)
        tree: Tree = {}
        for naming in self._names:
            if naming.step <= names and (loss != "folders" or self._folders_synced(naming, step)):
                _apply(tree, naming)

        def content(file: File) -> bytes:
            now, safe = file.at(step), file.safe(step)
            if loss == "nothing":
                return now
            if loss == "mixed" and now != safe:
                kept = len(safe) if now.startswith(safe) else 0  # what was synced and only added to is there
                return draw.choice([safe, now[: (kept + len(now)) // 2], now])
            return safe

        return {path: None if isinstance(found, dict) else content(found) for path, found in _walk(tree)}

    def states(self, losses: Sequence[Loss], seed: int = 0) -> list[tuple[int, Loss, State]]:
        """Every cut and loss whose state of the disk is another one; the first that leads to it."""
        seen: set[int] = set()
        result: list[tuple[int, Loss, State]] = []
        for step in range(self.steps + 1):
            for loss in losses:
                state = self.state(step, loss, seed)
                key = hash(frozenset(state.items()))
                if key not in seen:
                    seen.add(key)
                    result.append((step, loss, state))
        return result

    def check(self) -> list[str]:
        """Paths at which a replay of everything differs from the folder as it is; there should be none."""
        replayed, real = self.state(self.steps, "nothing"), read(Path(self._root))
        return sorted(path for path in {*replayed, *real} if replayed.get(path, b"-") != real.get(path, b"-"))

    def _folders_synced(self, naming: Naming, step: int) -> bool:
        """Whether the folder of a name, and all above it, were synced between the call that made the name and the cut."""
        folders = {path.rpartition("/")[0] for path in (naming.path, naming.target) if path}
        return all(any(naming.step <= when <= step for when in self._synced_folders.get(folder, ())) for folder in folders)

    def _take(self, call: _Call) -> None:
        name, words, result = call.name, call.words, call.result
        if name in ("open", "openat", "creat"):
            self._open(call)
        elif name == "close":
            self._handles.pop(_number(words[0]), None)
        elif name in ("dup", "dup2", "dup3") or (name == "fcntl" and "F_DUPFD" in words[1]):
            if _number(words[0]) in self._handles:
                self._handles[_number(result)] = self._handles[_number(words[0])]
            else:
                self._handles.pop(_number(result), None)
        elif name == "lseek":
            if handle := self._handles.get(_number(words[0])):
                handle.offset = int(result)
        elif name in ("write", "writev", "pwrite64", "pwritev", "pwritev2"):
            if handle := self._handles.get(_number(words[0])):
                data = b"".join(map(_bytes, re.findall(r'"((?:\\x[0-9a-f]{2})*)"', ",".join(words[1:]))))[: int(result)]
                self._write(handle, data, None if name.startswith("write") else int(words[-1] if name != "pwritev2" else words[-2]))
        elif name == "sendfile":
            if handle := self._handles.get(_number(words[0])):
                given = re.match(r"\[(\d+)\]", words[2])
                self._write(handle, self._source(words[1], int(given[1]) if given else None, int(result)), None)
        elif name == "copy_file_range":
            if handle := self._handles.get(_number(words[2])):
                given = re.match(r"\[(\d+)\]", words[1])
                self._write(handle, self._source(words[0], int(given[1]) if given else None, int(result)), None)
        elif name in ("truncate", "ftruncate"):
            file = self._handles[_number(words[0])].file if name == "ftruncate" and _number(words[0]) in self._handles else None
            if name == "truncate" and (place := self._inside(_text(words[0]))) is not None:
                found = _find(self._tree, place)
                file = found if isinstance(found, File) else None
            if file is not None:
                before = file.versions[-1][1]
                self._change(file, before[: int(words[1])].ljust(int(words[1]), b"\0"), f"{name} to {words[1]}")
        elif name in ("fsync", "fdatasync"):
            place = self._inside(_path_of(words[0]))
            if place is not None:
                step = self._step(f"{name} {place or '.'}")
                self._syncs.append(step)
                found = _find(self._tree, place)
                if place == "" or isinstance(found, dict):
                    self._synced_folders.setdefault(place, []).append(step)
                # By its name, which the kernel says: a number may be another thread's by now, whose opening is in the log a moment earlier.
                elif isinstance(found, File):
                    found.synced.append(step)
                elif handle := self._handles.get(_number(words[0])):
                    handle.file.synced.append(step)
        elif name in ("sync", "syncfs"):
            step = self._step(name)
            self._syncs.append(step)
            for file in self._files:
                file.synced.append(step)
        else:
            self._rename(call)

    def _open(self, call: _Call) -> None:
        words = call.words if call.name == "openat" else ["AT_FDCWD<>", *call.words]
        flags = "O_WRONLY|O_CREAT|O_TRUNC" if call.name == "creat" else words[2]
        number = _number(call.result)
        self._handles.pop(number, None)
        place = self._inside(_path_of(call.result))
        if not place or "O_DIRECTORY" in flags or "O_PATH" in flags:
            return
        found = _find(self._tree, place)
        if isinstance(found, dict):
            return
        if found is None:
            found = File([(0, b"")])
            self._files.append(found)
            self._name(Naming(self._step(f"create {place}"), "create", place, found))
        elif "O_TRUNC" in flags and found.versions[-1][1]:
            self._change(found, b"", f"empty {place}")
        self._handles[number] = _Handle(found, place, "O_APPEND" in flags)

    def _rename(self, call: _Call) -> None:
        name, words = call.name, call.words
        if name in ("rename", "renameat", "renameat2"):
            pairs = (
                [("AT_FDCWD<>", words[0]), ("AT_FDCWD<>", words[1])] if name == "rename" else [(words[0], words[1]), (words[2], words[3])]
            )
            source, target = (self._inside(_joined(*pair)) for pair in pairs)
            assert (source is None) == (target is None), f"something was moved into or out of the folder: {call}"
            if source is not None and target is not None:
                self._name(Naming(self._step(f"rename {source} to {target}"), "rename", source, None, target))
        elif name in ("unlink", "rmdir", "unlinkat"):
            place = self._inside(_joined("AT_FDCWD<>", words[0]) if name != "unlinkat" else _joined(words[0], words[1]))
            if place is not None:
                self._name(Naming(self._step(f"remove {place}"), "remove", place))
        elif name in ("mkdir", "mkdirat"):
            place = self._inside(_joined("AT_FDCWD<>", words[0]) if name == "mkdir" else _joined(words[0], words[1]))
            if place:
                self._name(Naming(self._step(f"folder {place}"), "folder", place))
        elif name in ("link", "linkat"):
            pair = ("AT_FDCWD<>", words[1]) if name == "link" else (words[2], words[3])
            source = self._inside(_joined("AT_FDCWD<>", words[0]) if name == "link" else _joined(words[0], words[1]))
            target = self._inside(_joined(*pair))
            if target is not None:
                assert source is not None, f"something was linked into the folder: {call}"
                file = _find(self._tree, source)
                assert isinstance(file, File)
                self._name(Naming(self._step(f"link {source} as {target}"), "create", target, file))
        elif name in ("symlink", "symlinkat"):
            place = self._inside(_joined("AT_FDCWD<>", words[1]) if name == "symlink" else _joined(words[1], words[2]))
            assert place is None, f"volgen makes no links: {call}"

    def _write(self, handle: _Handle, data: bytes, offset: int | None) -> None:
        before = handle.file.versions[-1][1]
        start = offset if offset is not None else len(before) if handle.append else handle.offset
        self._change(handle.file, before[:start].ljust(start, b"\0") + data + before[start + len(data) :], f"write {handle.place}")
        if offset is None:
            handle.offset = start + len(data)

    def _source(self, word: str, offset: int | None, count: int) -> bytes:
        """What ``sendfile`` and its like copy."""
        handle, path = self._handles.get(_number(word)), _path_of(word)
        start = offset if offset is not None else handle.offset if handle else 0
        content = handle.file.versions[-1][1] if handle else Path(path).read_bytes()
        if handle and offset is None:
            handle.offset = start + count
        return content[start : start + count]

    def _change(self, file: File, content: bytes, what: str) -> None:
        file.versions.append((self._step(what), content))

    def _name(self, naming: Naming) -> None:
        self._names.append(naming)
        _apply(self._tree, naming)

    def _step(self, what: str) -> int:
        self.told.append(what)
        self.steps += 1
        return self.steps

    def _inside(self, path: str) -> str | None:
        """The path below the folder, "" for the folder itself; None for one that is elsewhere or was removed."""
        path = os.path.normpath(path) if path else ""
        if path == self._root:
            return ""
        return path[len(self._root) + 1 :] if path.startswith(self._root + "/") and not path.endswith(" (deleted)") else None


def read(folder: Path) -> State:
    """A folder as it is."""
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in found}


def put(state: State, folder: Path) -> None:
    """Makes a folder as it might be after a cut."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, content in state.items():
        if content is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)


@dataclass
class _Handle:
    file: File
    place: str
    append: bool
    offset: int = 0


TAKING = {"open", "openat", "creat", "dup", "dup2", "dup3", "fcntl"}


@dataclass(frozen=True, order=True)
class _Call:
    when: int
    name: str
    words: list[str]
    result: str


_LINE = re.compile(r"(\d+)\.(\d+) (\w+)\((.*)\) += (-?\d+.*) <(\d+)\.(\d+)>$")


def _calls(logs: Sequence[Path]) -> Iterator[_Call]:
    for log in logs:
        lines = log.read_text().splitlines()
        if any(" execve(" in line for line in lines):  # another program, such as git: it has handles of its own
            continue
        for line in lines:
            found = _LINE.match(line)
            if found and not found[5].startswith("-1"):
                # A handle is free for the next file as soon as a call to close it has begun, and taken when one to open it has ended.
                lasted = int(found[6] + found[7].ljust(9, "0")) if found[3] in TAKING else 0
                yield _Call(int(found[1] + found[2]) + lasted, found[3], _split(found[4]), found[5])


def _split(text: str) -> list[str]:
    """Arguments of a call: separated by commas, but not those inside of brackets, braces or quotes (which hold no comma: all is hex)."""
    words, depth, start = [], 0, 0
    for match in re.finditer(r"[\[\]{}]|, ", text):
        if match[0] == ", ":
            if depth == 0:
                words.append(text[start : match.start()])
                start = match.end()
        else:
            depth += 1 if match[0] in "[{" else -1
    return [*words, text[start:]]


def _number(word: str) -> int:
    found = re.match(r"-?\d+", word)
    return int(found[0]) if found else -1


def _bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


def _text(word: str) -> str:
    return os.fsdecode(_bytes(word.strip('"')))


def _path_of(word: str) -> str:
    """The path in ``3</some/file>``, in hexadecimal like all else; what was removed ends in " (deleted)"."""
    found = re.search(r"<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?", word)
    return (os.fsdecode(_bytes(found[1])) + (" (deleted)" if found[2] else "")) if found else ""


def _joined(folder: str, word: str) -> str:
    return str(Path(_path_of(folder)) / _text(word))


def _apply(tree: Tree, naming: Naming) -> None:
    *parents, last = naming.path.split("/")
    folder = tree
    for name in parents:
        inner = folder.get(name)
        if not isinstance(inner, dict):
            return  # with its folder, which was lost, a name is lost
        folder = inner
    if naming.what == "create":
        assert naming.file is not None
        folder[last] = naming.file
    elif naming.what == "folder":
        folder[last] = {}
    else:
        moved = folder.pop(last, None)
        if naming.what == "rename" and moved is not None:
            *parents, last = naming.target.split("/")
            above = _find(tree, "/".join(parents)) if parents else tree
            if isinstance(above, dict):
                above[last] = moved


def _find(tree: Tree, place: str) -> File | Tree | None:
    found: File | Tree | None = tree
    for name in place.split("/"):
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found


def _walk(tree: Tree, prefix: str = "") -> Iterator[tuple[str, File | Tree]]:
    for name, found in tree.items():
        yield f"{prefix}{name}", found
        if isinstance(found, dict):
            yield from _walk(found, f"{prefix}{name}/")
