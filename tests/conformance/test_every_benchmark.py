"""What ``volgen bench`` needs of every file in its folder."""

from __future__ import annotations

import subprocess
import sys

import pytest

from volgen.cli import main
from volgen.commands.bench import PACKAGE
from volgen.core.config import Config
from volgen.core.registry import kinds, module, titles

NAMES = kinds(PACKAGE)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_has_what_the_command_needs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = module(PACKAGE, name)
    assert issubclass(found.Config, Config) and callable(found.run)
    assert all(field.description for field in found.Config.model_fields.values()), "every option needs a docstring: it is its help"
    with pytest.raises(SystemExit, match="0"):
        main(["bench", name, "--help"])
    shown = capsys.readouterr().out
    assert "--out FILE.json" in shown and titles(PACKAGE)[name].split()[0] in shown


def test_without_a_name_all_are_listed_and_none_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES and all(len(line.split()) > 3 for line in lines)
    code = "import sys, volgen.cli; volgen.cli.main(['bench']); print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    assert not {"torch", *(f"{PACKAGE}.{name}" for name in NAMES)} & set(loaded)


def test_the_module_is_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-m", PACKAGE], capture_output=True, text=True, check=True)
    assert main(["bench"]) == 0 and done.stdout == capsys.readouterr().out


def test_unknown_benchmarks_and_options_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "stoer"]) == 2
    assert "there is no benchmark 'stoer'. Did you mean 'store'?" in capsys.readouterr().err
    assert main(["bench", "store", "nowhere", "--repeat", "3"]) == 2
    assert "unknown argument '--repeat'. Did you mean '--repeats'?" in capsys.readouterr().err
    assert main(["bench", "store", "nowhere", "--repeats", "0"]) == 2
    assert "volgen bench store: --repeats: Input should be greater than 0" in capsys.readouterr().err


def test_an_out_that_is_a_folder_is_refused_before_the_work(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "store", "nowhere", "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
