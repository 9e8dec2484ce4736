"""A command is one file: it is listed, documented, completed and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOY = '''"""Say something several times.

It is a toy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional


class Config(BaseConfig):
    """What is said."""

    word: Annotated[str, Positional("WORD")]
    """What to say."""
    times: Annotated[int, Option("N")] = 2
    """How often."""
    voice: Literal["loud", "low"] = "low"
    """How it sounds."""
    strict: bool = False
    """Be content with silence only."""


def run(config: Config) -> Answer[str]:
    """Says it."""
    said = " ".join([config.word] * config.times)
    print(said.upper() if config.voice == "loud" else said)
    return Answer(said, passed=not config.strict)
'''


def test_a_command_is_one_file(house: Callable[[], Any]) -> None:
    newcomer = house()
    newcomer.add("commands/toy/__init__.py", TOY)
    assert newcomer.run("toy", "hey", "--voice", "loud", "--times", "3") == "HEY HEY HEY\n"
    assert newcomer.run("toy", "hey", "--strict", code=1) == "hey hey\n"
    help_of_all = newcomer.run("--help").splitlines()
    assert help_of_all[-1].split() == ["toy", "Say", "something", "several", "times"], "after those of a first use"
    own_help = newcomer.run("toy", "--help")
    assert all(text in own_help for text in ("How often (default: 2).", "{loud,low}", "WORD", "It is a toy."))
    assert "--voice" in newcomer.run("--print-completion", "bash")
    assert "Did you mean '--voice'?" in newcomer.run("toy", "hey", "--vioce", "low", code=2)
    assert "invalid choice: 'shrill'" in newcomer.run("toy", "hey", "--voice", "shrill", code=2)
    assert "Did you mean 'toy'?" in newcomer.run("tyo", code=2)
