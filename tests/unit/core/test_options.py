"""Fields of a configuration class as options of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveInt

from volgen.core.config import Config
from volgen.core.errors import UserError
from volgen.core.options import Chosen, Dotted, Nested, Option, Pairs, Parser, Positional, Section, add_options, from_options
from volgen.core.yaml_text import plain


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
        (["one", "--store", "s", "--rate", "-1"], "tool: --rate: Input should be greater than 0 (found -1.0)"),
        (["one", "--store", "s", "--shape", "x"], "tool: --shape.0: Input should be a valid integer"),
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


class _Inner(Config):
    size: int = 1
    """Its size."""


class _Outer(Config):
    what: Annotated[Chosen | None, Nested("WHAT", "things", lambda: {"thing": "A thing"}, lambda name: _Inner)] = None
    """What it is."""
    out: Path | None = None
    """Where it goes."""


class _Command(Config):
    run: Annotated[Path | None, Positional("RUN")] = None
    """A run."""
    dtype: Literal["float32", "int16"] = "float32"
    """Type of voxels."""
    count: int = 0
    """How many."""
    pictures: bool = True
    """Show pictures."""
    names: Annotated[tuple[str, ...], Option("NAME", names=("--names", "--labels"), verbatim=True)] = ()
    """Names with commas in them."""
    given: Annotated[tuple[str, ...], Option("KEY=VALUE", repeated=True)] = ()
    """What is known."""
    noise: Annotated[str | dict[str, object] | None, Section("volgen.sampling.noises")] = None
    """Kind of noise."""
    overrides: Annotated[Pairs, Dotted()] = ()
    """Everything else."""


def _read(cls: type[Config], *words: str) -> Any:
    parser = Parser("tool")
    add_options(parser, cls)
    options, rest = parser.parse_known_args(words)
    return from_options(cls, options, parser, rest)


def test_every_kind_of_field_is_read_from_the_command_line() -> None:
    words = "--dtype int16 --noise.spacing 2 --count 3 --no-pictures --labels a,b c --given age=7 --given sex=F there"
    read = _read(_Command, *words.split(), "--noise", "slerp", "--noise.axis", "A", "--x.y", "4", "5")
    assert (read.run, read.dtype, read.count, read.pictures, read.names) == (Path("there"), "int16", 3, False, ("a,b", "c"))
    assert read.given == ("age=7", "sex=F") and plain(read.noise) == {"kind": "slerp", "axis": "A", "spacing": 2}
    assert read.overrides == (("x.y", "[4, 5]"),)
    nothing = _read(_Command)
    assert nothing == _Command() and nothing.run is None and nothing.noise is None and nothing.pictures
    assert _read(_Command, "--no-pictures", "--pictures").pictures, "the last one counts"


def test_a_setting_that_looks_like_a_number_keeps_its_spelling_until_its_schema_is_asked() -> None:
    assert _read(_Command, "--noise.name", "2024").noise["name"].text == "2024"


def test_help_lists_choices_and_kinds() -> None:
    parser = Parser("tool")
    add_options(parser, _Command)
    text = " ".join(parser.format_help().split())
    assert "--dtype {float32,int16} Type of voxels (default: float32)." in text and "--count VALUE How many (default: 0)." in text
    assert "--pictures, --no-pictures Show pictures." in text and "--names NAME [NAME ...], --labels NAME [NAME ...]" in text
    assert "Kind of noise. One of slerp, white." in text and "[RUN]" in text


def test_a_sub_command_has_its_own_options_and_those_of_the_command() -> None:
    read = _read(_Outer, "thing", "--size", "4", "--out", "x")
    assert read.what == Chosen("thing", _Inner(size=4)) and read.out == Path("x")
    assert _read(_Outer).what is None
    with pytest.raises(UserError, match=r"tool: there is no what 'thign'. Did you mean 'thing'?"):
        _read(_Outer, "thign")
    with pytest.raises(UserError, match=r"unknown argument '--szie'. Did you mean '--size'?"):
        _read(_Outer, "thing", "--szie", "4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--count", "many"], "argument --count: invalid int value: 'many'"),
        (["--noise.axis"], "'--noise.axis' has no value; expected --noise.axis VALUE"),
        (["a", "b"], "unexpected argument 'b'"),
    ],
)
def test_bad_words_are_one_message(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        _read(_Command, *words)
    assert message in str(caught.value)
