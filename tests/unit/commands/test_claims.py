"""Every command that writes a folder owns it while it writes, says what is in it, and writes nowhere else."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from volgen.cli import main
from volgen.commands.ingest.ingest import ingest
from volgen.core.files import UNFINISHED
from volgen.core.folder import LOCK
from volgen.core.lock import Lock
from volgen.core.manifest import NAME, verify
from volgen.core.seal import sealed
from volgen.data.ingest.preprocess import IngestConfig

AUDIT = "audit runs/finished --members cohort.zarr --non-members strangers.zarr --out out --count 0 --levels 1 --draws 1"
COMMANDS = {
    "export": "export cohort.zarr --out out --ids sub-DEP01",
    "report": "report samples --reference report/bands.json --out out",
    "compare": "report --compare a=samples b=export --reference report/bands.json --out out",
    "sample": "sample runs/finished --out out --count 1 --seed 1",
    "statement": "statement runs/finished --out out",
    "audit": AUDIT,
    "anonymise": "anonymise export/sub-DEP01_T1w.nii.gz runs/finished --out out --epsilon 1e6 --delta 1e-5 --accept-vacuous",
    "plan": "plan --config run.yaml --nodes 1 --gpus-per-node 1 --gpu-memory 8 --people 11 --out out",
}
OTHERS = {"cohort": "cohort out", "ingest": "ingest export out --shape native --voxel-size native --workers 1"}
"""Folders without a manifest, or with one of their own."""


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory, cohort: Path) -> Path:
    """A store of people whom no run of the fixture has seen."""
    folder = tmp_path_factory.mktemp("strangers")
    for person in sorted(cohort.glob("sub-*"))[-4:]:
        shutil.copytree(person, folder / "scans" / person.name)
    ingest(folder / "scans", folder / "store", IngestConfig(shape=(16, 16, 16), voxel_size=14.0))
    return folder / "store"


@pytest.fixture
def there(made_by_0_1_0: Path, strangers: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made_by_0_1_0)
    (made_by_0_1_0 / "strangers.zarr").symlink_to(strangers)
    return made_by_0_1_0


def tree(folder: Path) -> dict[str, bytes | None]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_folder_has_checksums_of_all_that_is_in_it_and_nothing_else(words: str, there: Path) -> None:
    assert main(words.split()) in (0, 1)
    out = there / "out"
    content = json.loads((out / NAME).read_text())
    assert content["complete"] is True
    files = {name for name, found in tree(out).items() if found is not None}
    assert files == {NAME, *content["files"]} and not verify(out), "no lock, nothing unfinished, nothing that nobody signed for"


@pytest.mark.parametrize("words", [*COMMANDS.values(), *OTHERS.values()], ids=[*COMMANDS, *OTHERS])
def test_folders_of_others_are_left_alone(words: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, victim = there / "out", there / "victim"
    victim.mkdir()
    (victim / "letter").write_text("dear")

    def refused(message: str) -> None:
        before = tree(there)
        assert main(words.split()) == 2
        error = capsys.readouterr().err
        assert message in error, error
        assert tree(there) == before

    with Lock.wait(out / LOCK):  # another process is at work
        refused("is being written by")
    (out / LOCK).unlink()
    (out / "figures").symlink_to(victim)
    refused("")
    (out / "figures").unlink()
    (out / ".partial-sub-DEP01").symlink_to(victim)
    refused("is a link")
    (out / ".partial-sub-DEP01").unlink()
    (out / LOCK).symlink_to(victim / "letter")
    refused("is a link")
    (out / LOCK).unlink()
    (out / "thesis.tex").write_text("years of work")
    refused("")


def test_a_report_is_not_made_again_through_a_planted_link(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(COMMANDS["report"].split())
    (there / "out" / "figures").rename(there / "victim")
    (there / "out" / "figures").symlink_to(there / "victim")
    for path in (there / "victim").iterdir():
        path.write_text("mine")
    assert main(COMMANDS["report"].split()) == 2
    assert "figures: is a link" in capsys.readouterr().err
    assert {path.read_text() for path in (there / "victim").iterdir()} == {"mine"}


def test_a_statement_beside_samples_is_entered_into_their_manifest(there: Path) -> None:
    assert main(COMMANDS["sample"].split()) == 0
    before = json.loads((there / "out" / NAME).read_text())
    assert main([*AUDIT.replace("--out out", "--out audit").split()]) in (0, 1)
    assert main(["statement", "runs/finished", "--audit", "audit", "--out", "out"]) == 0
    after = json.loads((there / "out" / NAME).read_text())
    assert not verify(there / "out")
    assert after["files"]["statement.json"] != before["files"]["statement.json"] and after == sealed(after)
    assert {**after, "files": 0, "seal": 0} == {**before, "files": 0, "seal": 0}


def test_samples_that_were_changed_are_not_added_to(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS["sample"].split()) == 0
    (image,) = (there / "out").rglob("*.nii.gz")
    image.write_bytes(image.read_bytes()[:-9] + b"\0" * 9)
    before = tree(there / "out")
    assert main(COMMANDS["sample"].replace("--count 1", "--count 2").split()) == 2
    assert image.name in capsys.readouterr().err and tree(there / "out") == before


@pytest.mark.parametrize(
    ("words", "patched"),
    [
        (COMMANDS["sample"], "volgen.runs.work.SampleWork.stay"),
        (COMMANDS["report"], "volgen.reporting.page.write_page"),
        (COMMANDS["anonymise"], "volgen.commands.anonymise.anonymise._write"),
        (AUDIT, "volgen.commands.audit.audit._findings"),
        (COMMANDS["plan"], "volgen.commands.plan.files.content"),
    ],
    ids=["sample", "report", "anonymise", "audit", "plan"],
)
def test_a_command_that_fails_leaves_no_folder(words: str, patched: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(patched, fail)
    before = tree(there)
    assert main(words.split()) == 130
    assert {name: content for name, content in tree(there).items() if "runs/" not in name} == {
        name: content for name, content in before.items() if "runs/" not in name
    }


def test_two_folders_of_one_kind_do_not_mix(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run: Callable[[str], int] = lambda words: main(words.split())  # noqa: E731
    assert run(COMMANDS["sample"]) == 0
    for words, message in (
        (COMMANDS["sample"].replace("--seed 1", "--seed 2"), "another 'seed'"),
        (COMMANDS["report"], "holds other files"),
        (COMMANDS["plan"], "holds other files"),
        (COMMANDS["anonymise"], "holds other files"),
        (AUDIT, "holds the output of volgen sample"),
        (COMMANDS["export"], "holds other files"),
    ):
        before = tree(there / "out")
        assert run(words) == 2
        assert message in capsys.readouterr().err
        assert tree(there / "out") == before


def test_images_may_be_links_and_what_is_being_written_is_no_image(there: Path) -> None:
    linked = there / "linked"
    linked.mkdir()
    for path in (there / "samples").glob("*.nii.gz"):
        (linked / path.name).symlink_to(path)
        (linked / f"{UNFINISHED}00000000.nii.gz").write_bytes(b"half")
        (linked / f".{path.name.removesuffix('.nii.gz')}.ab12cd34.nii.gz").write_bytes(b"half")
    assert main(["report", "linked", "--reference", "report/bands.json", "--out", "out"]) == 0
    content = json.loads((there / "out" / "report.json").read_text())
    assert len(content["volumes"]) == 2 and not content["unread"]


@pytest.mark.parametrize("after", [0, 4])
@pytest.mark.parametrize("name", ["export", "report", "statement", "sample", "ingest", "cohort"])
def test_a_full_disk_is_one_message_with_its_place(
    name: str, after: int, there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fsync, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert main({**COMMANDS, **OTHERS}[name].split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: out") and "No space left on device" in error and "room" in error, error
    assert not [path for path in there.rglob(f"{UNFINISHED}*") if "runs" not in path.parts]
    assert not (there / "out").exists() or name == "ingest", "the scans of an ingest are kept"
