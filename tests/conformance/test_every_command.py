"""What ``volgen`` needs of every file in its folder of commands, and that nobody else reads a command line."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import volgen
from volgen import commands
from volgen.core.config import Config
from volgen.core.options import Parser, add_options

ROOT = Path(volgen.__file__).parent


@pytest.mark.parametrize("name", commands.titles())
def test_a_command_has_what_the_command_line_needs(name: str) -> None:
    found = commands.module(name)
    assert commands.titles()[name], "the first line of its docstring is its title"
    assert issubclass(found.Config, Config) and found.Config.__doc__
    assert all(field.description for field in found.Config.model_fields.values()), "every option needs a docstring: it is its help"
    (config,) = inspect.signature(found.run).parameters.values()
    assert config.annotation == "Config" and "Answer[" in inspect.signature(found.run).return_annotation
    add_options(Parser("tool"), found.Config)


def test_the_order_of_a_first_use_names_commands_that_there_are() -> None:
    assert set(commands.FIRST_USE) == set(commands.titles())
    assert tuple(commands.titles()) == commands.FIRST_USE


def test_a_command_is_opened_by_its_folder_alone() -> None:
    """What a command needs is imported when it runs: its options must not wait for torch (``ingest`` has those of its settings)."""
    heavy = {"torch", "nibabel", "zarr", "deepspeed", "matplotlib", "monai", "tensorstore"}
    for name in commands.titles():
        tree = ast.parse((ROOT / "commands" / name / "__init__.py").read_text(encoding="utf-8"))
        imported = {alias.name.partition(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module).partition(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert not imported & heavy, name


def test_nobody_else_reads_a_command_line() -> None:
    readers = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if "import argparse" in path.read_text(encoding="utf-8")}
    assert readers == {"cli.py", "core/options.py"}
