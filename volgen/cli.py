"""The command line: finds the command, runs it, and turns errors into one message and an exit code.

What the exit codes mean is in :mod:`volgen.core.exit_codes`.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

import volgen
from volgen.commands import COMMANDS, Overrides
from volgen.core.errors import UserError, nearest
from volgen.core.exit_codes import BAD_INPUT, DEFECT, INTERRUPTED
from volgen.core.options import Parser, is_number, names_of
from volgen.core.printable import printable

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
        options, overrides = _parse(words)
        return COMMANDS[options.command].run(options, overrides)
    except UserError as error:
        return _bad_input(str(error), words)
    except OSError as error:
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
    if isinstance(code, int) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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

    parser, _ = _parsers(COMMANDS)
    waiting: list[argparse.ArgumentParser] = [parser]
    while waiting:
        for action in waiting.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


class _Completion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None) -> None:
        print(completion(str(values)))
        parser.exit()


def _parsers(filled: Collection[str]) -> tuple[Parser, dict[str, Parser]]:
    """The parser of everything and that of each command; only those to be ``filled`` have arguments, which take time to import."""
    anywhere = Parser(add_help=False)
    anywhere.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show a traceback with an error")
    # Launchers put this in front of our options or behind them; ranks are read from the environment.
    anywhere.add_argument("--local_rank", "--local-rank", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser = Parser("volgen", description=volgen.__doc__, parents=[anywhere], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"volgen {volgen.__version__}")
    shells = "print a script that completes commands and options in this shell, and stop"
    parser.add_argument(COMPLETION, metavar="SHELL", choices=SHELLS, action=_Completion, help=shells)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    known = {}
    for name, command in COMMANDS.items():
        known[name] = subparsers.add_parser(name, help=command.help, description=command.help, parents=[anywhere], allow_abbrev=False)
        if name in filled:
            command.arguments(known[name])
    return parser, known


def _parse(words: list[str]) -> tuple[argparse.Namespace, Overrides]:
    named = next((word for word in words if word in COMMANDS), next((word for word in words if not word.startswith("-")), ""))
    if named and named not in COMMANDS and not words[0].startswith(COMPLETION):
        raise UserError("volgen", f"there is no command '{named}'", do=nearest(named, COMMANDS))
    parser, known = _parsers({named})
    options, rest = parser.parse_known_args(words)
    dotted = tuple(f"--{prefix}" for prefix in COMMANDS[options.command].overrides)
    strange = [word for word in rest if word.startswith("--") and not word.startswith(dotted)] if dotted else rest
    where = f"volgen {options.command}"
    if strange:
        word = strange[0].partition("=")[0]
        do = nearest(word, names_of(known[named])) if word.startswith("-") else f"see {where} --help"
        raise UserError(where, f"unknown argument '{word}'", do=do)
    return options, _pairs(rest, where)


def _pairs(words: Sequence[str], where: str) -> Overrides:
    """``--section.key value`` and ``--section.key=value`` as pairs; several numbers (``--data.shape 40 48 40``) are a list."""
    pairs: list[tuple[str, str]] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--") or word == "--":
            raise UserError(where, f"unexpected argument '{word}'", "--section.key VALUE", f"see {where} --help")
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(where, f"'{word}' has no value", f"{word} VALUE, with a key of the configuration", f"see {where} --help")
            values = [waiting.pop(0)]
            while waiting and is_number(waiting[0]) and is_number(values[0]):
                values.append(waiting.pop(0))
            value = values[0] if len(values) == 1 else "[" + ", ".join(word.rstrip(",") for word in values) + "]"
        pairs.append((key, value))
    return pairs
