"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from volgen.core.errors import UserError
from volgen.core.files import atomic_path, fingerprint, read_json, sha256, write_json, write_text


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
