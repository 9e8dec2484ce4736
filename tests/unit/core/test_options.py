"""Fields of a configuration class as options of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, PositiveInt

from volgen.core.config import Config
from volgen.core.errors import UserError
from volgen.core.options import Parser, Positional, add_options, from_options


class _Config(Config):
    runs: Annotated[tuple[Path, ...], Positional("RUN")]
    """What is measured."""
    store: Path
    """What it is measured on; 100 % of it."""
    shape: tuple[PositiveInt, ...] | None = (8, 8, 8)
    """Voxels."""
    kinds: tuple[str, ...] = ("a", "b")
    """Words."""
    rate: float = Field(default=0.5, gt=0)
    """A number."""
    short: bool = False
    """A flag."""


def _parse(*words: str) -> _Config:
    parser = Parser("tool")
    add_options(parser, _Config)
    options, rest = parser.parse_known_args(words)
    assert not rest
    return from_options(_Config, options, parser)


@pytest.mark.parametrize(
    "words",
    [
        ["one", "two", "--store", "123", "--shape", "4", "5", "6"],
        ["--shape", "4", "5", "6", "one", "two", "--store", "123"],
        ["--shape=4,5,6", "--store=123", "one", "two"],
        ["--store", "123", "--shape", "4,", "5,", "6", "one", "two"],
    ],
)
def test_numbers_leave_the_words_behind_them_alone(words: list[str]) -> None:
    config = _parse(*words)
    assert (config.runs, config.store, config.shape) == ((Path("one"), Path("two")), Path("123"), (4, 5, 6))


def test_values_are_those_of_the_class_where_nothing_is_given() -> None:
    config = _parse("one", "--store", "s")
    assert (config.shape, config.kinds, config.rate) == ((8, 8, 8), ("a", "b"), 0.5)
    assert _parse("one", "--store", "s", "--rate", "1e-4", "--kinds", "c").model_dump() == {
        "runs": (Path("one"),), "store": Path("s"), "shape": (8, 8, 8), "kinds": ("c",), "rate": 1e-4, "short": False,
    }  # fmt: skip
    assert _parse("one", "--short", "--store", "s").short


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--store", "s"], "the following arguments are required: RUN"),
        (["one"], "the following arguments are required: --store"),
        (["one", "--store", "s", "--rate", "-1"], "rate: Input should be greater than 0"),
        (["one", "--store", "s", "--shape", "x"], "shape.0: Input should be a valid integer"),
    ],
)
def test_bad_usage_says_what_is_wrong(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        _parse(*words)
    assert message in str(caught.value)


def test_help_says_meaning_and_default() -> None:
    parser = Parser("tool")
    add_options(parser, _Config)
    text = " ".join(parser.format_help().split())
    assert "RUN What is measured. --" not in text and "RUN What is measured." in text
    assert "--shape N [N ...] Voxels (default: 8 8 8)." in text and "100 % of it." in text


def test_options_of_a_sub_command_are_added_when_it_is_called() -> None:
    added: list[str] = []
    parser = Parser("tool")
    choices = parser.add_subparsers(dest="name")
    for name in ("one", "two"):
        choices.add_parser(name).late = lambda sub, name=name: added.append(name)
    assert parser.parse_args(["two"]).name == "two" and added == ["two"]
