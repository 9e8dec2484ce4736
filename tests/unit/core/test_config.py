"""Configuration: strict keys, dotted overrides, errors that name the nearest_word valid key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, PositiveInt

from volgen.core.config import Config, apply_overrides, dump_yaml, load, read_yaml, validate
from volgen.core.errors import UserError, nearest_word


class Plain(Config):
    kind: Literal["plain"] = "plain"
    width: PositiveInt = 4


class Fancy(Config):
    kind: Literal["fancy"] = "fancy"
    depth: PositiveInt = 2


class Inner(Config):
    rate: float = 1e-3


class Top(Config):
    name: str
    inner: Inner = Inner()
    part: Annotated[Plain | Fancy, Field(discriminator="kind")] = Plain()


class Many(Config):
    name: str
    words: tuple[str, ...] = ()
    maybe: str | None = None
    count: PositiveInt = 1
    rate: float = 1.0
    flag: bool = False
    stage: Literal[0, 1, 2] = 0
    shape: tuple[PositiveInt, PositiveInt] | None = None


def test_defaults_and_values() -> None:
    top = validate(Top, {"name": "a", "part": {"kind": "fancy"}}, "x.yaml")
    assert top.part == Fancy(depth=2)
    with pytest.raises(Exception, match="frozen"):
        top.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "a", "iner": {}}, "x.yaml: unknown key 'iner'.*Did you mean 'inner'"),
        ({"name": "a", "inner": {"rat": 1}}, "unknown key 'inner.rat'.*Did you mean 'rate'"),
        ({"name": "a", "part": {"kind": "plain", "widht": 1}}, "Did you mean 'width'"),
        ({"name": "a", "part": {"kind": "fancy", "zoo": 1}}, "Choose one of depth, kind"),
        ({"name": "a", "part": {"kind": "fancyy"}}, "part.kind is 'fancyy'.*Did you mean 'fancy'"),
        ({"name": "a", "part": {"width": 0}}, "part"),
        ({"name": "a", "part": {"kind": "plain", "width": 0}}, r"part\.plain\.width: .*greater than 0 \(found 0\)"),
        ({"name": "a", "inner": {"rate": float("nan")}}, r"inner\.rate"),
        ({}, "name: Field required"),
        ({"a": 1, "b": 2}, "more after this one"),
    ],
)
def test_errors_say_where_and_what_would_be_right(content: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(Top, content, "x.yaml")


def test_overrides_are_dotted_yaml() -> None:
    content = {"name": "a", "inner": {"rate": 1.0}}
    changed = apply_overrides(content, [("inner.rate", "1e-4"), ("name", "b"), ("part.kind", "fancy"), ("part.depth", "3")])
    assert validate(Top, changed, "x") == Top(name="b", inner=Inner(rate=1e-4), part=Fancy(depth=3))
    assert content == {"name": "a", "inner": {"rate": 1.0}}, "the original is left alone"


def test_override_of_kind_drops_the_keys_of_the_old_kind_in_either_order() -> None:
    content = {"name": "a", "part": {"kind": "plain", "width": 8}}
    pairs = [("part.depth", "5"), ("part.kind", "fancy")]
    for overrides in (pairs, pairs[::-1]):
        assert validate(Top, apply_overrides(content, overrides), "x").part == Fancy(depth=5)
    assert apply_overrides(content, [("part.kind", "plain")])["part"] == {"kind": "plain", "width": 8}


def test_override_through_a_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"--name\.first: 'name' is a str"):
        apply_overrides({"name": "a"}, [("name.first", "b")])


def test_dump_has_every_default_and_reads_back(tmp_path: Path) -> None:
    top = Top(name="a", part=Fancy(depth=7))
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(top))
    assert "rate: 0.001" in path.read_text()
    assert validate(Top, read_yaml(path), "x") == top


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "cannot be read as YAML"),
        ("- 1\n- 2", "holds a list"),
        ("", "holds nothing"),
        ("# name: a", "holds nothing"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(path)


def test_aliases_that_fill_memory_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 1", *(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 60))]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"bomb\.yaml: has more than 20000 values"):
        read_yaml(tmp_path / "bomb.yaml")
    (tmp_path / "circle.yaml").write_text("a: &a [*a]\n")
    with pytest.raises(UserError, match="has more than 20000 values"):
        read_yaml(tmp_path / "circle.yaml")
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 100_000)
    with pytest.raises(UserError, match="cannot be read as YAML"):
        read_yaml(tmp_path / "deep.yaml")
    for odd in ("9" * 5000, "2024-13-45", '!!bool "x"', '!!timestamp "x"', ":".join(["59"] * 400) + ".5"):
        (tmp_path / "odd.yaml").write_text(f"seed: {odd}\n")
        with pytest.raises(UserError, match=r"odd\.yaml: cannot be read as YAML"):
            read_yaml(tmp_path / "odd.yaml")
    assert apply_overrides({}, [("name", "2024-13-45")]) == {"name": "2024-13-45"}
    (tmp_path / "good.yaml").write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(tmp_path / "good.yaml") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("word", ["2024", "1e5", "nan", "on", "off", "2024-01-31", "0x10", "1_000", ".inf", "007", "12:30:45", "true"])
def test_where_text_is_wanted_every_word_is_text(word: str, tmp_path: Path) -> None:
    assert validate(Top, apply_overrides({}, [("name", word)]), "x").name == word
    (tmp_path / "c.yaml").write_text(f"name: {word}\nwords: [{word}, b]\nmaybe: {word}\n")
    read = load(Many, tmp_path / "c.yaml")
    assert (read.name, read.words, read.maybe) == (word, (word, "b"), word)
    (tmp_path / "again.yaml").write_text(dump_yaml(read))
    assert load(Many, tmp_path / "again.yaml") == read, "what is dumped reads back"


def test_where_numbers_are_wanted_words_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: a\ncount: 1e3\nrate: 1e-4\nflag: on\nstage: 2\nshape: [4, 5]\nmaybe: null\n")
    assert load(Many, tmp_path / "c.yaml") == Many(name="a", count=1000, rate=1e-4, flag=True, stage=2, shape=(4, 5))
    for key, text in (("count", "1e3"), ("rate", "1e-4"), ("flag", "yes"), ("stage", "2"), ("shape", "[4, 5]"), ("maybe", "null")):
        assert getattr(load(Many, tmp_path / "c.yaml", [(key, text)]), key) == getattr(load(Many, tmp_path / "c.yaml"), key)
    for key, text in (("count", "on"), ("count", "2024-01-31"), ("rate", "nan"), ("flag", "2"), ("stage", "7"), ("count", "")):
        with pytest.raises(UserError, match=rf"c\.yaml: {key}: "):
            load(Many, tmp_path / "c.yaml", [(key, text)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "has 'name' twice, in line 1 and in line 2"),
        ("name: a\ninner:\n  rate: 1\npart: {kind: plain}\ninner:\n  rate: 2\n", "has 'inner' twice, in line 2 and in line 5"),
        ("name: a\ninner:\n  rate: 1\n\n  rate: 1\n", r"has 'inner\.rate' twice, in line 3 and in line 5"),
        ("name: a\nstages: [{x: 1, x: 2}]\n", r"has 'stages\.x' twice, in line 2 and in line 2"),
    ],
)
def test_a_key_or_section_that_is_there_twice_is_named_with_its_lines(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"c\.yaml: {message}"):
        read_yaml(tmp_path / "c.yaml")
    with pytest.raises(UserError, match=r"--inner: has 'rate' twice"):
        apply_overrides({}, [("inner", "{rate: 1, rate: 2}")])


def test_merge_keys_repeat_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *a, z: 4}\non: 1\n")
    assert read_yaml(tmp_path / "c.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2, "z": 4}, "on": 1}


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_nearest_lists_what_exists_when_nothing_is_near() -> None:
    assert nearest_word("zzz", ["heun", "euler"]) == "choose one of euler, heun"
    assert nearest_word("hune", ["heun", "euler"]) == "did you mean 'heun'?"


def test_user_error_is_one_sentence_after_the_other() -> None:
    error = UserError("a.yaml", "is empty", "a mapping", "see configs/")
    assert str(error) == "a.yaml: is empty; expected a mapping. See configs/."
    assert str(UserError("x", "y")) == "x: y."
