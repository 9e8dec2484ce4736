"""The command line without its stages: parsing, messages, exit codes and speed."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from volgen import cli, commands
from volgen.core import exit_codes
from volgen.core.answer import Answer
from volgen.core.errors import UserError
from volgen.core.options import Parser, add_options, from_options
from volgen.core.yaml_text import plain

RECIPE = {
    "name": "tiny",
    "data": {"store": "cohort.zarr", "shape": [16, 16, 16], "batch_size": 2},
    "schedule": {"kind": "log_snr", "points": 4},
    "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4},
    "preconditioner": {"kind": "edm"},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_help_is_fast_and_names_every_command() -> None:
    # Processor time, which other work on the machine does not lengthen.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "volgen", "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(re.search(rf"^    {name}\s", done.stdout, re.MULTILINE) for name in commands.titles())
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.3


def test_help_imports_no_heavy_library() -> None:
    code = """
import contextlib, sys, volgen.cli
with contextlib.suppress(SystemExit):
    volgen.cli.main(["--help"])
print(*sys.modules, file=sys.stderr)
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    assert "volgen.cli" in loaded
    assert not {"torch", "numpy", "pydantic", "nibabel", "rich", "yaml"} & set(loaded)


@pytest.mark.parametrize("command", list(commands.titles()))
def test_help_of_each_command_documents_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    parser = Parser("tool")
    add_options(parser, commands.module(command).Config)
    shown = capsys.readouterr().out
    for action in (action for action in parser._actions if action.help != argparse.SUPPRESS):
        assert action.help, f"{action.dest} has no help text"
        assert all(option in shown for option in action.option_strings)


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import volgen

    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"volgen {volgen.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "there is no command 'trian'. Did you mean 'train'?"),
        (["sample", "run"], "the following arguments are required: --out"),
        (
            ["sample", "run", "--out", "x", "--seed", "0", "--count", "1", "--cuont", "3"],
            "unknown argument '--cuont'. Did you mean '--count'?",
        ),
        (
            ["sample", "run", "--out", "x", "--seed", "0", "--count", "1", "--cuont=3"],
            "unknown argument '--cuont'. Did you mean '--count'?",
        ),
        (["sample", "run", "--out", "x", "--count", "many"], "invalid int value: 'many'"),
        (["sample", "run", "--out", "x", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["cohort", "a", "b"], "unknown argument 'b'"),
        (["ingest", "a", "b", "--shpe", "3"], "unknown argument '--shpe'. Did you mean '--shape'?"),
        (["ingest", "a", "b", "--voxel-size", "-2"], "volgen ingest: --voxel-size: Input should be greater than 0"),
        (["ingest", "a", "b", "--shape", "1", "2"], "volgen ingest: --shape.2: Field required"),
        (["train"], "the following arguments are required: --config"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["train", "--config", "nowhere.yaml", "stray"], "unexpected argument 'stray'"),
        (["train", "--config", "nowhere.yaml", "--dryrun"], "'--dryrun' has no value"),
        (["report", "a", "--out", "x"], "the following arguments are required: --reference"),
    ],
)
def test_bad_usage_is_one_message_and_exit_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seed", "7"], {"seed": 7}),
        (["--seed=7", "--name", "other"], {"seed": 7, "name": "other"}),
        (["--optimiser.learning_rate", "1e-4"], {"optimiser": {"learning_rate": 1e-4}}),
        (["--data.shape", "[32, 16, 16]"], {"data": {"shape": [32, 16, 16]}}),
        (["--preconditioner.kind=v", "--experts.count=2"], {"preconditioner": {"kind": "v"}, "experts": {"count": 2}}),
        (["--local_rank=1", "--seed", "7"], {"seed": 7}),
        (["--local-rank", "1", "--seed", "7"], {"seed": 7}),
    ],
)
def test_overrides_reach_the_configuration(
    config: Path, words: list[str], expected: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--config", str(config), *words, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for key, value in expected.items():
        if isinstance(value, dict):
            assert {name: printed[key][name] for name in value} == value
        else:
            assert printed[key] == value
    assert printed["data"]["batch_size"] == 2


def test_printed_configuration_is_complete_and_reads_back_the_same(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--config", str(config), "--print_config"]) == 0
    first = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(first)
    assert cli.main(["train", "--config", str(again), "--print_config"]) == 0
    assert capsys.readouterr().out == first
    assert yaml.safe_load(first)["engine"]["zero_stage"] == 0


def test_an_unknown_key_names_the_nearest(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--config", str(config), "--experts.cuont", "2"]) == 2
    assert "unknown key 'experts.cuont'" in (err := capsys.readouterr().err)
    assert "'count'" in err


def test_a_launcher_may_put_the_rank_before_the_command(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--local_rank=0"], ["--local-rank", "0"]):
        assert cli.main([*words, "train", "--config", str(config), "--print_config"]) == 0
    assert "name: tiny" in capsys.readouterr().out


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--debug", "train", "--config", "nowhere.yaml"], ["train", "--config", "nowhere.yaml", "--debug"]):
        assert cli.main(words) == 2
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "message", "traceback"),
    [
        (UserError("here", "nothing", "something"), 2, "error: here: nothing; expected something.", False),
        (OSError(28, "No space left on device", "volume.nii.gz"), 2, "error: volume.nii.gz: No space left on device.", False),
        (KeyboardInterrupt(), 130, "interrupted", False),
        (ZeroDivisionError("division by zero"), 70, "please report", True),
    ],
)
def test_what_a_stage_raises_decides_the_exit_code(
    raised: BaseException, code: int, message: str, traceback: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: object) -> Answer[None]:
        raise raised

    monkeypatch.setattr("volgen.commands.cohort.run", run)
    assert cli.main(["cohort", "x"]) == code
    err = capsys.readouterr().err
    assert message in err
    assert ("Traceback" in err) == traceback


@pytest.mark.parametrize("words", [["explain", "network.channels"], ["explain", "network"]])
def test_who_reads_the_output_may_go(words: list[str]) -> None:
    """As in ``volgen explain | head -0``: no message, and the code that such a pipe gives other programs."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "volgen", *words], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.stderr, done.returncode) == ("", exit_codes.UNHEARD)


def test_a_pipe_that_breaks_elsewhere_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: object) -> Answer[None]:
        raise BrokenPipeError(32, "Broken pipe", "a fifo")

    monkeypatch.setattr("volgen.commands.cohort.run", run)
    assert cli.main(["cohort", "x"]) == 2 and "a fifo: Broken pipe" in capsys.readouterr().err


def test_only_warnings_of_volgen_are_shown(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    def run(config: object) -> Answer[None]:
        warnings.warn_explicit("of a library", FutureWarning, "x.py", 1, module="monai.networks")
        warnings.warn_explicit("of volgen", UserWarning, "y.py", 1, module="volgen.data.store")
        return Answer(None)

    monkeypatch.setattr("volgen.commands.cohort.run", run)
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings(record=True) as caught:
        assert cli.main(["cohort", "x"]) == 0
    assert [str(item.message) for item in caught] == ["of volgen"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sample", ["run", "--out", "x", "--seed", "0"]),
        ("export", ["s", "--out", "x"]),
        ("anonymise", ["i.nii", "run", "--epsilon", "1", "--delta", "1e-5", "--out", "x"]),
        ("report", ["s", "--reference", "r", "--out", "x"]),
    ],
)
def test_options_have_the_defaults_of_the_stage(command: str, words: list[str]) -> None:
    stage = getattr(importlib.import_module(f"volgen.commands.{command}.{command}"), command)
    config = commands.module(command).Config
    parser = Parser("tool")
    add_options(parser, config)
    options = dict(from_options(config, parser.parse_args(words), parser))
    options.pop("compare", None)  # of `report`: chooses another stage, which takes the rest
    parameters = inspect.signature(stage).parameters
    assert set(options) == set(parameters), "an option of the stage that cannot be given, or the reverse"
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert options[name] == parameter.default, name


def test_exit_codes_are_written_down_in_one_place(repository: Path) -> None:
    names = {name for name in vars(exit_codes) if name.isupper()}
    for path in sorted((repository / "volgen").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if path.stem != "exit_codes" and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assert node.id not in names, f"{path} has a {node.id} of its own"
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("SystemExit", "sys.exit"):
                assert not any(isinstance(argument, ast.Constant) for argument in node.args), f"{path}, line {node.lineno}"


@pytest.mark.parametrize(
    "words", [["--name", "2024"], ["--name", "1e5"], ["--name=nan"], ["--data.store", "2024"], ["--data.store", "off"]]
)
def test_a_name_may_look_like_a_number(words: list[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--config", str(config), "--print_config", *words]) == 0
    key, value = words if len(words) == 2 else words[0].split("=")
    printed = yaml.safe_load(capsys.readouterr().out)
    found = printed["name"] if key == "--name" else printed["data"]["store"]
    assert str(found) == value


@pytest.mark.parametrize("words", [["8", "12", "8"], ["[8, 12, 8]"], ["8,12,8"], ["8 12 8"], ["8,", "12,", "8"]])
def test_a_shape_is_typed_as_for_ingest(words: list[str], config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--config", str(config), "--data.shape", *words, "--seed", "3", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["data"]["shape"], printed["seed"]) == ([8, 12, 8], 3)
    assert cli.main(["train", "--config", str(config), "--data.shape", "8", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["shape"] == [8, 8, 8]


def test_a_shape_that_is_left_out_is_the_stores(
    config: Path, blob_store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", "--config", str(config), "--print_config", "--data.shape", "null", "--data.store"]
    assert cli.main([*words, str(blob_store)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["shape"] == [16, 16, 16]
    assert cli.main([*words, "nowhere.zarr"]) == 2
    assert re.search(r"data\.shape: is left out, and cannot be taken from the store .*nowhere.*Ingest first", capsys.readouterr().err)
    monkeypatch.setattr("volgen.data.store.Store.shape", None)
    assert cli.main([*words, str(blob_store)]) == 2
    assert "differ in shape" in capsys.readouterr().err


def test_settings_of_a_sampler_reach_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    import volgen.commands.sample.sample as stage

    asked: list[object] = []
    monkeypatch.setattr(stage, "sample", lambda *args, **options: asked.append(options["sampler"]))
    for words in ([], ["--sampler", "heun"], ["--sampler.eta", "0.5", "--sampler", "ddim"], ["--sampler.eta=1"]):
        assert cli.main(["sample", "run", "--out", "x", "--count", "1", "--seed", "0", *words]) == 0
    assert plain(asked) == [None, {"kind": "heun"}, {"kind": "ddim", "eta": 0.5}, {"eta": 1}]


def test_settings_of_noise_reach_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    import volgen.commands.sample.sample as stage

    asked: list[object] = []
    monkeypatch.setattr(stage, "sample", lambda *args, **options: asked.extend((options["sampler"], options["noise"])))
    for words in ([], ["--noise", "slerp", "--noise.axis", "A"], ["--noise.spacing=3", "--sampler.eta=1"]):
        assert cli.main(["sample", "run", "--out", "x", "--count", "1", "--seed", "0", *words]) == 0
    assert plain(asked) == [None, None, None, {"kind": "slerp", "axis": "A"}, {"eta": 1}, {"spacing": 3}]


def test_options_of_ingest_reach_the_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import volgen.commands.ingest.ingest as stage

    seen: list[tuple[object, ...]] = []

    def ingest(source: Path, store: Path, config: object, *, workers: int, strict: bool, **_: object) -> None:
        seen.append((source, config, workers, strict))

    monkeypatch.setattr(stage, "ingest", ingest)
    words = ["ingest", str(tmp_path), "store", "--workers", "3", "--strict", "--voxel-size", "2.5", "--shape"]
    for shape in (["48", "56", "48"], ["32"], ["native"]):
        assert cli.main([*words, *shape]) == 0
    assert [(config.shape, config.voxel_size) for _, config, _, _ in seen] == [((48, 56, 48), 2.5), ((32, 32, 32), 2.5), (None, 2.5)]  # type: ignore[attr-defined]
    assert {(source, workers, strict) for source, _, workers, strict in seen} == {(tmp_path, 3, True)}


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_a_shell_completes_commands_options_and_paths(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert all(command in script for command in commands.titles())
    assert all(option in script for option in ("voxel-size", "start-index", "gpus-per-node"))  # tcsh adds the dashes itself
    if shell == "bash":
        asked = f'{script}\nCOMP_WORDS=(volgen sample --mem); COMP_CWORD=2; _shtab_volgen; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        assert "--memory-gib" in done.stdout.split(), done.stderr
