"""One owner of an output folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from volgen.core.errors import UserError
from volgen.core.files import UNFINISHED, atomic_folder, synced_together, write_json, write_text
from volgen.core.folder import LOCK, Folder, claim, own, refuse_links
from volgen.core.manifest import NAME, Provenance, verify
from volgen.core.seal import sealed

WRITE = """
import sys
from pathlib import Path
from volgen.core.files import atomic_path
from volgen.core.folder import claim
from volgen.core.manifest import Provenance

out, inputs = Path(sys.argv[1]), {"of": sys.argv[2]}
with claim(out, Provenance("trial", {}, inputs), "a trial", writes=lambda name: name in {"a.txt", "sub"},
           differs=lambda before: "" if before["inputs"] == inputs else "holds another trial") as folder:
    folder.begin()
    with atomic_path(out / "sub" / "b.txt") as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        input()
    folder.finish()
"""


def mine(out: Path, of: str = "x", **more: Any) -> AbstractContextManager[Folder]:
    def differs(before: Mapping[str, Any]) -> str:
        return "" if before.get("inputs") == {"of": of} else "holds another trial"

    return claim(out, Provenance("trial", {}, {"of": of}), "a trial", writes=lambda name: name in {"a.txt", "sub"}, differs=differs, **more)


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def start(out: Path, of: str = "x") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITE, str(out), of]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def test_a_finished_folder_has_checksums_of_everything_and_no_lock(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with mine(out) as folder:
        folder.begin()
        assert json.loads((out / NAME).read_text())["complete"] is False
        write_text(out / "a.txt", "a")
        write_text(out / "sub" / "b.txt", "b")
        content = folder.finish(more=1)
    assert tree(out) == ["a.txt", NAME, "sub", "sub/b.txt"]
    assert sorted(content["files"]) == ["a.txt", "sub/b.txt"] and content["complete"] is True and content["more"] == 1
    assert not verify(out)
    with mine(out) as folder:  # the same again
        assert folder.before is not None and sealed(folder.before) == content


def test_a_folder_of_somebody_else_is_refused_and_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"out: holds other files \(thesis\.tex\)"), mine(out):
        pass
    assert tree(out) == ["thesis.tex"]
    (out / "thesis.tex").rename(out / "a.txt")  # the name alone is no proof for those who want one
    with pytest.raises(UserError, match=r"out: holds other files \(a\.txt\)"), mine(out, keeps=lambda: True):
        pass
    assert (out / "a.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"a\.txt: is a file; expected a folder for a trial"), mine(out / "a.txt"):
        pass


def test_the_output_of_another_question_is_refused_and_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with mine(out, "x") as folder:
        write_text(out / "a.txt", "x")
        folder.finish()
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match="holds another trial"), mine(out, "y"):
        pass
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_second_process_is_refused_while_the_first_one_writes_and_the_first_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(out)
    before = tree(out)
    for of in ("x", "y"):
        with pytest.raises(UserError, match=rf"is being written by .*\(process {first.pid}\).*Wait for it to end"), mine(out, of):
            pass
    assert tree(out) == before
    _, error = first.communicate("\n")
    assert first.returncode == 0, error
    assert tree(out) == [NAME, "sub", "sub/b.txt"] and not verify(out)


def test_what_a_killed_command_left_is_gone_when_the_next_one_has_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, "x")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert LOCK in tree(out) and any(UNFINISHED in name for name in tree(out)), "the test has to kill it in the middle"
    (out / ".manifest.ab12cd_x.json").write_text("{")  # of volgen 0.1.0
    with mine(out, "y") as folder:  # nothing was finished, so another question may have the folder
        folder.begin()
        write_text(out / "a.txt", "y")
        folder.finish()
    assert tree(out) == ["a.txt", NAME] and not verify(out)


def test_unfinished_work_that_is_worth_something_is_kept_from_another_question(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, "x")
    process.kill()
    process.communicate()
    with pytest.raises(UserError, match="holds another trial"), mine(out, "y", keeps=lambda: True):
        pass
    with mine(out, "x", keeps=lambda: True) as folder:
        assert folder.before is not None and folder.before["complete"] is False
        folder.finish()


def test_a_command_that_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    for begin in (False, True):

        def fails(begin: bool = begin) -> None:
            with mine(tmp_path / "deep" / "out") as folder:
                if begin:
                    folder.begin()
                raise UserError("nothing", "no")

        with pytest.raises(UserError, match="no"):
            fails()
        assert tree(tmp_path) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="no"), mine(tmp_path / "there"):
        raise UserError("nothing", "no")
    assert tree(tmp_path) == ["there"], "a folder that the user has made stays"


def test_a_folder_may_be_a_link_or_below_one_if_the_user_says_so(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "runs").symlink_to("scratch")
    for out in (tmp_path / "runs" / "new", tmp_path / "runs"):
        with own(out, "a trial", lambda: None):
            write_text(out / "a.txt", "a")
            write_text(out / "sub" / "b.txt", "b")
    with synced_together():
        write_text(tmp_path / "runs" / "c.txt", "c")
    with atomic_folder(tmp_path / "runs" / "whole") as folder:
        (folder / "d.txt").write_text("d")
    written = ["a.txt", "c.txt", "new", "new/a.txt", "new/sub", "new/sub/b.txt", "sub", "sub/b.txt", "whole", "whole/d.txt"]
    assert tree(tmp_path / "scratch") == written


def test_nothing_is_written_through_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "letter").write_text("dear")
    for name, target in (
        ("sub", victim),
        (LOCK, victim / "letter"),
        (".partial-a", victim),
        (f"{UNFINISHED}0", victim),
        (NAME, victim / "letter"),
    ):
        out = tmp_path / f"out{name}"
        if name != NAME:  # a report, say, from elsewhere, which is to be made again
            Provenance("trial", {}, {"of": "x"}).write(out)
        out.mkdir(exist_ok=True)
        (out / name).symlink_to(target)
        with pytest.raises(UserError, match="is a link"), mine(out) as folder:
            folder.begin()
        assert tree(victim) == ["letter"] and (victim / "letter").read_text() == "dear"
    out = tmp_path / "deep"
    (out / "sub").mkdir(parents=True)
    Provenance("trial", {}, {"of": "x"}).write(out)
    (out / "sub" / "b.txt").symlink_to(victim / "letter")
    with pytest.raises(UserError, match=r"b\.txt: is a link"), mine(out):
        pass
    os.link(victim / "letter", tmp_path / "hard")
    (tmp_path / "hard2").mkdir()
    os.link(victim / "letter", tmp_path / "hard2" / LOCK)
    with pytest.raises(UserError, match="hard links"), mine(tmp_path / "hard2"):
        pass
    assert (victim / "letter").read_text() == "dear"


@pytest.mark.timeout(20)
def test_nobody_waits_for_a_planted_pipe(tmp_path: Path) -> None:
    for name in (LOCK, NAME, "a.txt"):
        out = tmp_path / name
        out.mkdir()
        os.mkfifo(out / name)
        with pytest.raises(UserError), mine(out):
            pass
        with pytest.raises(UserError, match="neither a file nor a folder"):
            refuse_links(out)


def test_a_manifest_that_was_changed_is_refused_and_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with mine(out) as folder:
        write_text(out / "a.txt", "a")
        content = folder.finish()
    (out / NAME).write_text((out / NAME).read_text().replace(content["files"]["a.txt"], "0" * 64))
    before = (out / NAME).read_bytes()
    with pytest.raises(UserError, match=rf"{NAME}: was changed after it was written.*choose another --out"), mine(out):
        pass
    assert (out / NAME).read_bytes() == before


def test_what_is_entered_later_is_sealed_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with mine(out) as folder:
        folder.finish()
    with mine(out) as folder:
        write_text(out / "a.txt", "a")
        folder.amend(["a.txt"])
    content = json.loads((out / NAME).read_text())
    assert not verify(out) and content["files"] and content == sealed(content)


def test_what_is_kept_is_not_signed_for_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with mine(out) as folder:
        write_text(out / "a.txt", "a")
        folder.finish()
    (out / "a.txt").write_text("b")
    with mine(out) as folder:
        folder.begin()
        write_text(out / "sub" / "b.txt", "b")
        folder.finish(kept={"a.txt"})
    assert verify(out).changed == ("a.txt",)


def test_strangers_are_tolerated_beside_a_manifest_only_if_that_is_meant(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with mine(out) as folder:
        write_text(out / "a.txt", "a")
        folder.finish()
    write_json(out / "notes.json", {})
    with pytest.raises(UserError, match="holds other files"), mine(out):
        pass
    with mine(out, strangers=True) as folder:
        assert sorted(folder.finish()["files"]) == ["a.txt"]
