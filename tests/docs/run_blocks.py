"""Runs every command block of README and docs: python tests/docs/run_blocks.py [--list] [PAGE.md ...]

A command block is a fenced block of ``bash`` or ``python``, or an indented one whose first line begins with a command. All blocks of a
page run one after another in one folder, which is empty but for the repository's ``configs``, ``launch`` and ``docs``. What stands in front
of a block says otherwise, in a comment that no reader sees:

    <!-- docs: check; 40 hours on eight GPUs -->      not run; options, keys and files of its volgen commands are checked
    <!-- docs: skip; needs a Slurm cluster -->        not run, for this reason
    <!-- docs: exit 1; the plan does not fit -->      run, and ends with this code
    <!-- docs: short --stopping.max_steps 2; hours -->    run with these options behind those of each volgen train
    <!-- docs: output -->                             the block or table after this is what the command block before it prints

    <!-- docs: setup
    commands that a reader has done already; "$DOCS" is the folder of this script
    -->

In what is printed, numbers may differ by 2 % and ``...`` stands for anything. ``VOLGEN_TEST_DATA`` names real scans, if there are any.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ("bash", "deepspeed", "docker", "mpirun", "pip", "python", "sbatch", "source", "srun", "torchrun", "volgen")
NEEDS_REASON = ("check", "skip", "exit", "short")
LIMIT = 600
TOLERANCE = 0.02
_COMMENT = re.compile(r"<!--\s*docs:\s*(?P<word>\w+)(?P<rest>.*?)-->", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A piece of a page.

    Attributes:
        page: its file.
        line: of the page, from 1.
        mode: ``run``, ``check``, ``skip``, ``exit``, ``short``, ``setup`` or ``output``.
        reason: why it is not run, or why it ends as it does.
        text: commands, or what they print.
        code: the exit code of the last command.
        options: what is put behind each ``volgen train``.
    """

    page: Path
    line: int
    mode: str
    reason: str
    text: str
    code: int = 0
    options: str = ""

    @property
    def where(self) -> str:
        """``docs/plan.md:49``."""
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page}:{self.line}"


class Wrong(Exception):
    """A block that is not what it says."""


def blocks(page: Path) -> list[Block]:
    """The command blocks of a page with what the comments in front of them say.

    Raises:
        Wrong: a comment that is none of those above, or stands in front of nothing.
    """
    found: list[Block] = []
    mode, reason, code, options, since = "run", "", 0, "", 0
    lines = page.read_text(encoding="utf-8").splitlines()
    place = 0
    while place < len(lines):
        line = lines[place]
        if re.match(r"<!--\s*docs:", line):
            first = place
            while "-->" not in lines[place]:
                place += 1
            comment = _COMMENT.match("\n".join(lines[first : place + 1]))
            if comment is None:
                raise Wrong(f"{page.name}:{first + 1}: not a comment for this script: {line}")
            word, rest = comment["word"], comment["rest"]
            if word == "setup":
                found.append(Block(page, first + 1, "setup", "", rest.strip("\n")))
            else:
                mode, reason, code, options, since = *_said(word, rest, f"{page.name}:{first + 1}"), first + 1
            place += 1
            continue
        block = _block(lines, place, mode == "output")
        if block is None:
            if line.strip() and mode != "run":
                raise Wrong(f"{page.name}:{since}: '{mode}' stands in front of no block")
            place += 1
            continue
        text, after = block
        if mode == "output" or _is_command(lines[place], text):
            found.append(Block(page, place + 1, mode, reason, text, code, options))
        elif mode != "run":
            raise Wrong(f"{page.name}:{since}: '{mode}' stands in front of a block without a command")
        mode, reason, code, options = "run", "", 0, ""
        place = after
    if mode != "run":
        raise Wrong(f"{page.name}:{since}: '{mode}' stands in front of no block")
    return found


def _said(word: str, rest: str, where: str) -> tuple[str, str, int, str]:
    head, _, reason = rest.partition(";")
    reason = " ".join(reason.split())
    if word not in (*NEEDS_REASON, "output"):
        raise Wrong(f"{where}: there is no '{word}'")
    if (word in NEEDS_REASON) != bool(reason):
        raise Wrong(f"{where}: '{word}' has {'no' if not reason else 'a'} reason")
    return word, reason, int(head) if word == "exit" else 0, " ".join(head.split()) if word == "short" else ""


def _block(lines: Sequence[str], place: int, table: bool) -> tuple[str, int] | None:
    """The text of the block that begins at a line, and the line after it."""
    if lines[place].startswith("```"):
        end = next(n for n in range(place + 1, len(lines)) if lines[n].startswith("```"))
        text = "\n".join(lines[place + 1 : end])
        return f"python - <<'END'\n{text}\nEND" if lines[place].strip("` ") == "python" else text, end + 1
    for mark in ("    ", "|") if table else ("    ",):
        blank_before = place == 0 or not lines[place - 1].strip() or lines[place - 1].startswith("<!--") or "-->" in lines[place - 1]
        if lines[place].startswith(mark) and blank_before:
            end = place
            while end < len(lines) and (lines[end].startswith(mark) or (mark == "    " and _goes_on(lines, end))):
                end += 1
            return "\n".join(line.removeprefix("    ") for line in lines[place:end]), end
    return None


def _goes_on(lines: Sequence[str], place: int) -> bool:
    return not lines[place].strip() and place + 1 < len(lines) and lines[place + 1].startswith("    ")


def _is_command(first: str, text: str) -> bool:
    if first.startswith("```"):
        return first.strip("` ") in ("bash", "sh", "console", "python")
    words = text.split()
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return bool(words) and words[0] in COMMANDS


def check(block: Block) -> None:
    """Checks options, configuration keys and files of the volgen commands of a block that is not run.

    Raises:
        Wrong: volgen would refuse one of them as bad usage.
    """
    from volgen import recipe
    from volgen.cli import parse
    from volgen.core.errors import UserError

    for words in volgen_commands(block.text):
        try:
            _, options = parse(words)
            config = getattr(options, "config", None)
            if config is not None and str(config).startswith("configs/"):
                recipe.load(ROOT / config, getattr(options, "overrides"))  # noqa: B009 (of the commands that have a configuration)
        except (UserError, SystemExit) as error:
            raise Wrong(f"{block.where}: volgen {' '.join(words)}: {error}") from None


def volgen_commands(text: str) -> list[list[str]]:
    """The words behind each ``volgen`` that a shell script would start, through whichever launcher; nothing is started but the shell."""
    with tempfile.TemporaryDirectory(prefix="volgen-docs-") as name:
        record = Path(name) / "record"
        record.touch()
        # Words end in NUL, commands in a record separator: a shell knows what its quotes, variables and loops mean.
        note = (
            "note() { while (( $# )) && [[ $1 != volgen ]]; do shift; done; (( $# )) || return 0; shift; "
            f'printf "%s\\0" "$@" >> {shlex.quote(str(record))}; printf "\\036" >> {shlex.quote(str(record))}; }}\n'
        )
        doubles = "".join(f'{word}() {{ note {word} "$@"; }}\n' for word in COMMANDS)
        script = f"set -euo pipefail\n{note}{doubles}{text}\n"
        done = subprocess.run(["bash", "-c", script], cwd=name, text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Wrong(f"the shell ends with {done.returncode}: {done.stderr.strip()}")
        return [command.split("\0")[:-1] for command in record.read_text().split("\036")[:-1]]


def agrees(expected: str, printed: str) -> str | None:
    """The first line of ``expected`` that was not printed; None if all were, in this order."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    place = 0
    for line in (" ".join(line.split()) for line in expected.splitlines()):
        if not line or line == "...":
            continue
        match = next((n for n in range(place, len(lines)) if _same(line, lines[n])), None)
        if match is None:
            return line
        place = match + 1
    return None


def _same(expected: str, printed: str) -> bool:
    parts = expected.split("...")
    pattern = ".*".join("(.+)".join(map(re.escape, _NUMBER.split(part))) for part in parts)
    match = re.fullmatch(pattern, printed)
    if match is None:
        return False
    numbers = _NUMBER.findall(" ".join(parts))
    return all(_close(one, other) for one, other in zip(numbers, match.groups(), strict=True))


def _close(expected: str, printed: str) -> bool:
    try:
        return abs(float(expected) - float(printed)) <= TOLERANCE * abs(float(expected)) + 1e-12
    except ValueError:
        return False


def run_page(page: Path) -> list[str]:
    """Runs a page and says what is wrong with it; prints what it does."""
    wrong: list[str] = []
    printed = ""
    with tempfile.TemporaryDirectory(prefix="volgen-docs-") as name:
        folder = Path(name)
        for shared in ("configs", "launch", "docs"):
            (folder / shared).symlink_to(ROOT / shared)
        for block in blocks(page):
            began = time.monotonic()
            try:
                if block.mode == "check":
                    check(block)
                elif block.mode == "output":
                    missing = agrees(block.text, printed)
                    if missing is not None:
                        raise Wrong(f"{block.where}: was not printed: {missing}\nPrinted:\n{printed[-4000:]}")
                elif block.mode != "skip":
                    printed = _run(block, folder)
            except Wrong as error:
                wrong.append(str(error))
                print(f"WRONG    {error}", flush=True)
                continue
            seconds = f"{time.monotonic() - began:.0f} s" if block.mode in ("run", "exit", "short", "setup") else block.reason
            print(f"{block.mode:8} {block.where}: {seconds}", flush=True)
    return wrong


def _run(block: Block, folder: Path) -> str:
    environment = {
        **os.environ,
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu"),
        "COLUMNS": "200",
        "DOCS": str(Path(__file__).parent),
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    train = f'if [[ $1 == train ]]; then command volgen "$@" {block.options}; else command volgen "$@"; fi'
    script = f"set -euo pipefail\nvolgen() {{ {train}; }}\n{block.text}\n"
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        process.communicate()
        raise Wrong(f"{block.where}: ran for more than {LIMIT} s") from None
    if process.returncode != block.code:
        raise Wrong(f"{block.where}: ended with {process.returncode}, not {block.code}:\n{block.text}\n{printed[-4000:]}")
    return printed


def main() -> int:
    """Runs or lists pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--list", action="store_true", help="print what would be done with each block, and stop")
    options = parser.parse_args()
    pages = [page.resolve() for page in options.pages]
    if options.list:
        for page in pages:
            for block in blocks(page):
                print(f"{block.mode:8} {block.where}: {block.reason or block.text.splitlines()[0]}")
        return 0
    wrong = [text for page in pages for text in run_page(page)]
    counts = {
        mode: sum(block.mode == mode for page in pages for block in blocks(page))
        for mode in ("run", "exit", "short", "check", "skip", "output")
    }
    print(", ".join(f"{count} {mode}" for mode, count in counts.items()) + f"; {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
