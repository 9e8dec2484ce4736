"""The command line: finds the command, runs it, and turns errors into one message and an exit code.

What the exit codes mean is in :mod:`volgen.core.exit_codes`.
"""

from __future__ import annotations

import argparse
import errno
import inspect
import os
import select
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import volgen
from volgen import commands
from volgen.core.errors import UserError
from volgen.core.exit_codes import BAD_INPUT, DEFECT, INTERRUPTED, UNHEARD
from volgen.core.options import Parser, add_options, from_options
from volgen.core.printable import printable

if TYPE_CHECKING:
    from volgen.core.answer import Answer
    from volgen.core.config import Config

AGAIN = "then give the same command again: it goes on where this one stopped, or begins anew"
REMEDIES = {
    errno.ENOSPC: f"make room on that file system, {AGAIN}",
    errno.EDQUOT: f"delete something of yours on that file system or ask for more room, {AGAIN}",
    errno.EROFS: "choose a folder on a file system that can be written to",
    errno.EIO: f"the disk or its server fails: see the system's log, mend that, {AGAIN}",
    errno.ELOOP: "replace it by what it points to",
}
"""What to do about errors of the system that come up anywhere."""

COMPLETION = "--print-completion"
SHELLS = ("bash", "zsh", "tcsh")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not sys.warnoptions:
        # Libraries warn about what a user cannot change; volgen's own warnings are shown.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=r"volgen(\.|$)")
    try:
        command, config = parse(words)
        answer: Answer[object] = command.run(config)
        return answer.code
    except UserError as error:
        return _bad_input(str(error), words)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not _heard():
            return UNHEARD
        # A full disk or a folder without permission: nothing that a traceback would explain.
        return _bad_input(_of_system(error), words)
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped.", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        # Must not look like a failed check (1) or like the user's fault (2).
        traceback.print_exc()
        print("error: this is a defect in volgen; please report it with the lines above.", file=sys.stderr)
        return DEFECT


def parse(words: Sequence[str]) -> tuple[ModuleType, Config]:
    """The command that is asked for, and its options.

    Raises:
        UserError: there is no such command or option, or it cannot have this value.
        SystemExit: help was asked for, and printed.
    """
    parser, known = _parsers()
    options, rest = parser.parse_known_args(words)
    command = commands.module(options.command)
    config: Config = from_options(command.Config, options, known[options.command], rest)
    return command, config


def run() -> NoReturn:
    """What the ``volgen`` script and ``python -m volgen`` do: :func:`main`, and an end of the process that fits.

    A rank of several ends at once, without Python's and C++'s tidying up: by then everything is written and closed, but threads of
    gloo can still abort a process that leaves while its peers do ("terminate called without an active exception"), and a launcher
    takes that for a failed job.
    """
    try:
        code: int | str | None = main()
    except SystemExit as leaving:
        code = leaving.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code if _heard() else UNHEARD
    if isinstance(code, int) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _heard() -> bool:
    """Whether somebody may still read the standard output; if not, what is left of it goes nowhere, or Python would fail at its end."""
    try:
        out = sys.stdout.fileno()
    except (OSError, ValueError):  # no file at all, as in a test
        return True
    poll = select.poll()
    poll.register(out, 0)  # errors are told of in any case
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, out)
    os.close(nowhere)
    return False


def _of_system(error: OSError) -> str:
    """Where a system call failed, and what a user can do about it."""
    where = error.filename or error.filename2 or "a file or the standard output"
    return str(UserError(os.fsdecode(where), error.strerror or str(error), do=REMEDIES.get(error.errno or 0, "")))


def _bad_input(message: str, words: Sequence[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    print(f"error: {printable(message)}", file=sys.stderr)
    return BAD_INPUT


def completion(shell: str) -> str:
    """A script that teaches a shell the commands of volgen and their options; what takes a path is completed with paths."""
    import shtab

    parser, _ = _parsers()
    waiting: list[argparse.ArgumentParser] = [parser]
    while waiting:
        following = waiting.pop()
        if isinstance(following, Parser):
            following.complete()
        for action in following._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


class _Completion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None) -> None:
        print(completion(str(values)))
        parser.exit()


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of everything and that of each command, which gets its arguments, and imports what they need, when it is used."""
    parser = Parser("volgen", description=volgen.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"volgen {volgen.__version__}")
    shells = "print a script that completes commands and options in this shell, and stop"
    parser.add_argument(COMPLETION, metavar="SHELL", choices=SHELLS, action=_Completion, help=shells)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    known = {}
    for name, title in commands.titles().items():
        known[name] = subparsers.add_parser(name, help=title, description=title, allow_abbrev=False)
        known[name].late = partial(_fill, name=name)
    return parser, known


def _fill(parser: argparse.ArgumentParser, name: str) -> None:
    """Gives a command's parser what the command's module says."""
    command = commands.module(name)
    parser.usage, parser.epilog = getattr(command, "USAGE", None), inspect.cleandoc(command.__doc__ or "").partition("\n\n")[2]
    add_options(parser, command.Config)
