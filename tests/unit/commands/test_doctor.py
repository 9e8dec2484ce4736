"""`volgen doctor`, with an `ssh` that runs a machine's share of the conversation on this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import volgen
from volgen import cli
from volgen.commands.doctor.files import token
from volgen.commands.doctor.hosts import read_hostfile
from volgen.core.errors import UserError

SSH = """#!/bin/sh
while :; do case $1 in -n) shift ;; -o) shift 2 ;; -V) echo "OpenSSH_test" >&2; exit 0 ;; *) break ;; esac; done
case $1 in
    gone) echo "ssh: connect to host gone port 22: No route to host" >&2; exit 255 ;;
    blind) eval "$(printf %s "$2" | sed 's/volgen-doctor/no-such-file/g')" ;;
    other) eval "$(printf %s "$2" | sed 's/volgen.__version__/repr(0)/')" ;;
    bare) eval "$(printf %s "$2" | sed 's/import volgen/import no_such_module/')" ;;
    *) eval "$2" ;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    """Programs that are found, and no others but the system's own shell tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"ssh": SSH, "pdsh": "#!/bin/sh\necho pdsh-test\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name in ("sh", "sed", "uname", "cat", "grep"):
        (folder / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.chdir(repository)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return folder


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = cli.main(["doctor", "--quick", "--json", *words])
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] == (code == 0)
    return code, {finding["name"]: finding for finding in answer["findings"]}


def hostfile(folder: Path, *lines: str) -> str:
    path = folder / "hostfile"
    path.write_text("\n".join(lines))
    return str(path)


def test_a_machine_that_can_train_is_healthy_without_any_launcher(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ssh", "pdsh"):
        (programs / name).unlink()
    code, found = ask(capsys)
    assert code == 0
    assert found["launch"]["found"].startswith("rank 0 of 1 on ")
    assert {found[name]["state"] for name in ("ssh", "pdsh", "Slurm", "Open MPI")} == {"note"}
    assert found["pdsh"]["do"] == "install pdsh"
    assert "GiB free of" in found["disk here"]["found"]


def test_a_hostfile_needs_pdsh(programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (programs / "pdsh").unlink()
    code, found = ask(capsys, "--hostfile", hostfile(tmp_path, "near slots=1"))
    assert code == 1
    assert [name for name, finding in found.items() if finding["state"] == "missing"] == ["pdsh"]


def test_every_machine_of_a_hostfile_is_asked_and_judged(programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = tmp_path / "a folder"
    shared.mkdir()
    names = ("near", "gone", "blind", "other", "bare")
    code, found = ask(capsys, "--hostfile", hostfile(tmp_path, *(f"{name} slots=2" for name in names)), "--shared", str(shared))
    assert code == 1
    assert {name: found[f"host {name}"]["state"] for name in names} == {**dict.fromkeys(names, "missing"), "near": "ok"}
    assert f"2 ranks, no nvidia-smi, volgen {volgen.__version__}, sees {shared}" in found["host near"]["found"]
    assert found["host gone"]["found"] == "cannot be reached: ssh: connect to host gone port 22: No route to host"
    assert "does not see the files of" in found["host blind"]["found"]
    assert "has volgen 0, and this machine" in found["host other"]["found"]
    assert found["host bare"]["found"].endswith("has no volgen")
    assert list(shared.iterdir()) == [], "the token is gone"


def test_more_slots_than_gpus_are_found(programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (programs / "nvidia-smi").write_text('#!/bin/sh\necho "GPU 0: A100 (UUID: GPU-0)"\n')
    (programs / "nvidia-smi").chmod(0o755)
    assert ask(capsys, "--hostfile", hostfile(tmp_path, "near slots=1"))[0] == 0
    code, found = ask(capsys, "--hostfile", hostfile(tmp_path, "near slots=2"))
    assert code == 1
    assert "has 1 GPUs for 2 ranks" in found["host near"]["found"]


def test_a_shared_folder_that_is_not_there_is_missing(programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, "--shared", str(tmp_path))[0] == 0
    code, found = ask(capsys, "--shared", str(tmp_path / "nowhere"))
    assert code == 1
    assert "there is no folder" in found["shared"]["found"]


def test_torch_and_deepspeed_are_tried(repository: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, "-m", "volgen", "doctor"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "DeepSpeed     works on " in done.stdout
    assert "accelerators" in done.stdout


@pytest.mark.parametrize(("lines", "message"), [
    (("near",), r"line 1: is 'near'; expected HOST slots=RANKS"),
    (("# two", "near slots=0"), r"line 2: is 'near slots=0'"),
    (("a slots=1", "", "a slots=2"), r"line 3: has a again"),
    (("# nobody",), "names no machine"),
])  # fmt: skip
def test_a_hostfile_of_another_form_is_bad_usage(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_hostfile(Path(hostfile(tmp_path, *lines)))
    with pytest.raises(UserError, match="cannot be read"):
        read_hostfile(tmp_path / "absent")
    assert cli.main(["doctor", "--hostfile", str(tmp_path / "absent")]) == 2


def test_a_hostfile_keeps_its_order(tmp_path: Path) -> None:
    assert list(read_hostfile(Path(hostfile(tmp_path, "b slots=2", "# c", "a slots=1  # small"))).items()) == [("b", 2), ("a", 1)]


def test_every_rank_says_who_it_is(programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "MASTER_ADDR": "n1",
    }.items():
        monkeypatch.setenv(name, value)
    code, found = ask(capsys)
    assert code == 0
    assert list(found) == ["launch"]
    assert found["launch"]["found"].startswith("rank 1 of 2 on ")


def test_the_token_differs_from_time_to_time(tmp_path: Path) -> None:
    with token(tmp_path) as first, token(tmp_path) as second:
        assert first is not None and second is not None
        assert first[0].read_text() == first[1] != second[1]
    with token(None) as nothing:
        assert nothing is None
