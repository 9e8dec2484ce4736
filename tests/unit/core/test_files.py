"""Files are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from volgen.core.errors import UserError
from volgen.core.files import (
    UNFINISHED,
    atomic_folder,
    atomic_path,
    fingerprint,
    make_folder,
    open_plain,
    read_bytes,
    read_json,
    sha256,
    sweep,
    sync_tree,
    synced_together,
    write_json,
    write_text,
)


def test_file_appears_whole_with_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz"), "libraries choose the format by suffix"
        temporary.write_bytes(b"1")
        assert not path.exists()
    assert path.read_bytes() == b"1"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip_and_refusal_of_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 0.1, "ö": None})
    assert read_json(path, "a thing") == {"a": 0.1, "ö": None}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path, "a thing")["a"] == 0.1


@pytest.mark.parametrize(("content", "message"), [("{", "cannot be read as JSON"), ("[]", "has another form")])
def test_bad_json_is_refused_with_what_was_expected(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"{message}.*; expected a thing"):
        read_json(path, "a thing")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "b.json", "a thing")


def test_a_file_name_that_is_no_utf8_can_be_written_down(tmp_path: Path) -> None:
    name = b"M\xfcller.nii".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "a.json", {"left_out": [name, "Müller"]})
    assert read_json(tmp_path / "a.json", "x") == {"left_out": [name, "Müller"]}
    write_text(tmp_path / "a.csv", name)
    assert (tmp_path / "a.csv").read_text() == "M\\udcfcller.nii"


def test_json_without_an_end_of_brackets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"deep\.json: cannot be read as JSON"):
        read_json(tmp_path / "deep.json", "x")


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()
    assert fingerprint({"a": 1, "b": [2.5]}) == fingerprint({"b": [2.5], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


class Journal:
    """Syncs and renames, in the order in which they happened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[str, str]] = []
        fsync, replace, rename = os.fsync, os.replace, Path.replace

        def synced(handle: int) -> None:
            self.lines.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
            fsync(handle)

        def renamed(source: Path, target: Path) -> None:
            self.lines.append(("rename", Path(target).name))
            replace(source, target)

        def moved(source: Path, target: Path) -> Path:
            self.lines.append(("rename", Path(target).name))
            return rename(source, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", renamed)
        monkeypatch.setattr(Path, "replace", moved)


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(monkeypatch)
    write_text(tmp_path / "a.txt", "a")
    (first, name), *rest = journal.lines
    assert first == "sync" and name.startswith(UNFINISHED)
    assert rest == [("rename", "a.txt"), ("sync", tmp_path.name)]


def test_a_folder_is_on_the_disk_with_all_in_it_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(monkeypatch)
    with atomic_folder(tmp_path / "group") as temporary:
        (temporary / "0").mkdir()
        (temporary / "0" / "shard").write_bytes(b"1")
        (temporary / "zarr.json").write_bytes(b"{}")
        assert not (tmp_path / "group").exists()
    assert sorted(journal.lines[:4])[2:] == [("sync", "shard"), ("sync", "zarr.json")]
    assert journal.lines[-2:] == [("rename", "group"), ("sync", tmp_path.name)]
    assert [path.name for path in tmp_path.iterdir()] == ["group"]
    with pytest.raises(OSError, match="group"), atomic_folder(tmp_path / "group") as temporary:
        (temporary / "other").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["group"]


def test_many_files_are_synced_at_the_end_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(monkeypatch)
    with synced_together():
        write_text(tmp_path / "a.txt", "a")
        write_text(tmp_path / "a.txt", "b")
        write_text(tmp_path / "c.txt", "c")
    assert journal.lines[:3] == [("rename", "a.txt"), ("rename", "a.txt"), ("rename", "c.txt")]
    assert sorted(journal.lines[3:]) == sorted([("sync", "a.txt"), ("sync", "c.txt"), ("sync", tmp_path.name)])  # several at a time


def test_a_new_folder_is_on_the_disk_before_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(monkeypatch)
    write_text(tmp_path / "runs" / "mine" / "a.txt", "1")
    assert journal.lines[:2] == [("sync", "runs"), ("sync", tmp_path.name)]
    assert journal.lines[-2:] == [("rename", "a.txt"), ("sync", "mine")]
    with synced_together():
        write_text(tmp_path / "other" / "b.txt", "2")
    assert {("sync", "other"), ("sync", tmp_path.name)} <= set(journal.lines[4:])
    assert make_folder(tmp_path / "x" / "y") == [tmp_path / "x" / "y", tmp_path / "x"]
    assert make_folder(tmp_path / "x" / "y") == []


def test_a_file_system_that_cannot_sync_is_believed_and_a_broken_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> None:
        def fsync(handle: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    fails(errno.EINVAL)
    write_text(tmp_path / "a.txt", "a")
    sync_tree(tmp_path)
    fails(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(tmp_path / "b.txt", "b")
    assert caught.value.filename and not (tmp_path / "b.txt").exists()


def test_a_full_disk_has_a_place_whoever_writes(tmp_path: Path) -> None:
    def full(error: Exception) -> None:
        with atomic_path(tmp_path / "a.bin"):
            raise error

    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("I/O error: No space left on device (os error 28)")):
        with pytest.raises(OSError, match=r"No space left on device: '.*a\.bin'") as caught:
            full(error)
        assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_links_pipes_devices_folders_and_giants_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "giant").open("wb") as stream:
        stream.truncate(2**40)
    cases = {"link": "is a link", "pipe": "not a regular file", "folder": "is a folder", "giant": "bytes, more than"}
    for name, words in cases.items():
        with pytest.raises(UserError, match=words):
            read_json(tmp_path / name, "x")
    for name in ("link", "pipe", "folder"):
        with pytest.raises(OSError, match=cases[name]):
            sha256(tmp_path / name)
        with pytest.raises(OSError, match=cases[name]):
            open_plain(tmp_path / name, "ab+")
    with pytest.raises(UserError, match="not a regular file"):
        read_json(Path("/dev/zero"), "x")
    with pytest.raises(OSError, match="more than the 1 that make sense"):
        read_bytes(tmp_path / "a.json", limit=1)
    assert read_json(tmp_path / "link", "x", follow=True) == {}  # what a user has named himself
    with pytest.raises(UserError, match="not a regular file"):
        read_json(tmp_path / "pipe", "x", follow=True)


KILLED = """
import sys
from pathlib import Path
from volgen.core.files import atomic_path

with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    input()
"""


def test_what_the_dead_left_goes_and_what_the_living_write_stays(tmp_path: Path) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "deep" / name)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        return process

    dead, living = start("dead.json"), start("living.json")
    dead.kill()
    dead.communicate()
    (tmp_path / f"{UNFINISHED}folder").mkdir()
    (tmp_path / ".preconditioner_training.ab12cd34.safetensors").touch()  # of volgen 0.1.0
    (tmp_path / ".my.settings.json").touch()
    assert len(list((tmp_path / "deep").iterdir())) == 2
    assert [path.parent.name for path in sweep(tmp_path)] == ["deep"]
    living.communicate("\n")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["living.json"]
    sweep(tmp_path, alone=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".my.settings.json", "deep"]
