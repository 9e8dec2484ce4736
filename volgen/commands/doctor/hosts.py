"""The machines of a hostfile: whether each answers over ssh, has the same volgen, and sees the same files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import volgen
from volgen.commands.doctor.finding import Finding
from volgen.core.errors import UserError

Probe = tuple[Path, str]
"""A file, and what is in it."""
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60
AT_ONCE = 64
_LINE = re.compile(r"(\S+)\s+slots=(\d+)\s*(?:#.*)?")


@dataclass(frozen=True)
class Host:
    """What a machine answered.

    Attributes:
        name: the hostfile's word for it.
        slots: ranks that shall run on it.
        error: why it cannot be used, empty if it can.
        hostname: what it calls itself.
        version: volgen's version there; None if the interpreter of this process is not there, or knows no volgen.
        gpus: number of NVIDIA GPUs, None if ``nvidia-smi`` is not there.
        token: content of the file that was looked for; None if it is not there.
    """

    name: str
    slots: int
    error: str = ""
    hostname: str = ""
    version: str | None = None
    gpus: int | None = None
    token: str | None = None


def read_hostfile(path: Path) -> dict[str, int]:
    """Ranks for each machine, in the order of the file; rank 0 is on the first. Lines that begin with ``#`` are comments.

    Raises:
        UserError: the file cannot be read, a line is not ``HOST slots=RANKS``, a machine is there twice, or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"cannot be read ({error})", "a hostfile with lines such as `node1 slots=8`") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or match[2] == "0":
            raise UserError(f"{path}, line {number}", f"is '{line}'", "HOST slots=RANKS, such as `node1 slots=8`")
        if match[1] in hosts:
            raise UserError(f"{path}, line {number}", f"has {match[1]} again", "one line for each machine")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise UserError(str(path), "names no machine", "lines such as `node1 slots=8`")
    return hosts


def ask(hosts: Mapping[str, int], probe: Probe | None) -> list[Host]:
    """Asks all machines at once; takes no longer than the slowest, and that no longer than a minute.

    Args:
        hosts: names and ranks.
        probe: a file that each shall try to read, and its content.
    """
    script = _questions(None if probe is None else probe[0])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda item: _ask(item[0], item[1], script), hosts.items()))


def judge(host: Host, probe: Probe | None) -> Finding:
    """What a machine's answer means."""
    ranks = f"{host.slots} rank{'s' if host.slots > 1 else ''}"
    name = f"host {host.name}"
    if host.error:
        return Finding(name, "missing", f"cannot be reached: {host.error}", f"`ssh -o BatchMode=yes {host.name} true` must work")
    if host.version != volgen.__version__:
        found = "has no volgen" if host.version is None else f"has volgen {host.version}, and this machine {volgen.__version__}"
        do = f"{sys.executable} and {Path.cwd()} must be there as they are here: put both on a shared file system"
        return Finding(name, "missing", f"{host.hostname} {found}", do)
    if probe is not None and host.token != probe[1]:
        found = f"{host.hostname} does not see the files of {probe[0].parent}"
        return Finding(name, "missing", found, "mount the same file system there, under the same path")
    if host.gpus is not None and host.gpus < host.slots:
        found = f"{host.hostname} has {host.gpus} GPUs for {ranks}"
        return Finding(name, "missing", found, "give it as many slots as GPUs")
    gpus = "no nvidia-smi" if host.gpus is None else f"{host.gpus} GPUs"
    seen = "" if probe is None else f", sees {probe[0].parent}"
    return Finding(name, "ok", f"{host.hostname}: {ranks}, {gpus}, volgen {host.version}{seen}")


def _ask(name: str, slots: int, script: str) -> Host:
    # No terminal, no questions: BatchMode fails where a password or an unknown key would be asked for, as it would under pdsh.
    options = ["-n", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    try:
        done = subprocess.run(
            ["ssh", *options, name, script], capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Host(name, slots, f"does not answer within {ANSWER_SECONDS} s")
    except FileNotFoundError:
        return Host(name, slots, "there is no ssh on this machine")
    answers = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if "hostname" not in answers:
        words = done.stderr.strip().splitlines()
        return Host(name, slots, words[-1] if words else f"ssh ended with exit code {done.returncode}")
    gpus = answers.get("gpus", "")
    return Host(
        name, slots, "", answers["hostname"], answers.get("version") or None, int(gpus) if gpus.isdigit() else None, answers.get("token")
    )


def _questions(token: Path | None) -> str:
    """A script for a machine's shell. The launcher starts this same interpreter in this same folder there."""
    code = shlex.quote("import volgen; print('version=' + volgen.__version__)")
    where, python = shlex.quote(str(Path.cwd())), shlex.quote(sys.executable)
    # A checkout need not be installed: python -m finds it in the current folder, and so does the launcher there.
    questions = [
        'echo "hostname=$(uname -n)"',
        f"cd {where} 2>/dev/null && {python} -c {code} 2>/dev/null",
        'if command -v nvidia-smi >/dev/null; then echo "gpus=$(nvidia-smi --list-gpus | grep -c UUID)"; fi',
    ]
    if token is not None:
        questions.append(f'if [ -r {shlex.quote(str(token))} ]; then echo "token=$(cat {shlex.quote(str(token))})"; fi')
    return "; ".join(questions)
