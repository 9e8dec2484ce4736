"""Processes that start as a fresh ``volgen`` does, in a tenth of a second: forks of one that has imported everything.

That one never makes a tensor, opens a store or starts a thread of its own, so its children are as good as processes from the shell: they
have their own session, can be killed, stopped and traced, and several run side by side. Run as a script, this file is that process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT = 120.0
"""Seconds that a command may take: beyond, it hangs. An undisturbed one takes about one."""
MEMORY = 16 * 2**30
"""Bytes of address space: a damaged number must not take the machine with it."""
LATE = ("torch.utils.tensorboard", "torch._dynamo", "matplotlib.figure")
"""What libraries import when they are used first, which takes seconds."""


@dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
        code: exit code; negative for a signal, None if it did not end in time and was killed.
        said: everything that it printed.
        seconds: from its start.
    """

    code: int | None
    said: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        """Messages for the user."""
        return [line for line in self.said.splitlines() if line.startswith("error: ")]

    @property
    def refused(self) -> bool:
        """Whether it ended as a refusal should: code 2, exactly one message, no traceback."""
        return self.code == 2 and len(self.errors) == 1 and "Traceback" not in self.said

    def __str__(self) -> str:
        return f"code {self.code} after {self.seconds:.1f} s: {' | '.join(self.said.strip().splitlines()[-3:])[-600:]}"


@dataclass
class Child:
    """A running command."""

    pid: int
    nursery: Nursery
    log: Path
    started: float = field(default_factory=time.monotonic)
    code: int | None = None

    def running(self) -> bool:
        """Whether it has not ended."""
        if self.code is None:
            self.code = self.nursery.ask({"poll": self.pid})["code"]
        return self.code is None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to it and to what it has started."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def wait(self, limit: float = LIMIT) -> Done:
        """Waits for its end; kills it when the time is over."""
        end = time.monotonic() + limit
        while self.running() and time.monotonic() < end:
            time.sleep(0.004)
        hung = self.running()
        if hung:
            self.kill()
            while self.running():
                time.sleep(0.004)
        seconds = time.monotonic() - self.started
        return Done(None if hung else self.code, self.log.read_text(errors="replace"), seconds)


class Nursery:
    """The process that forks.

    Args:
        folder: where commands run, and logs go.
        tracer: command line that the process is run by, such as strace's.
    """

    def __init__(self, folder: Path, tracer: Sequence[str] = ()) -> None:
        import volgen

        self._logs = Path(tempfile.mkdtemp(dir=folder, prefix="logs-"))
        self._number = 0
        home = str(Path(volgen.__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": home, "PYTHONDONTWRITEBYTECODE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        # A test process of pytest-xdist has a rank's variables as little as a shell has.
        command = [*tracer, sys.executable, "-W", "ignore", __file__]
        log = (self._logs / "nursery.log").open("a")
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        log.close()
        assert self.ask({"hello": True}) == {"hello": True}

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """One question to the process, and its answer."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f"the nursery is gone; see {self._logs}"
        content: dict[str, Any] = json.loads(answer)
        return content

    def start(self, *words: object, environment: Mapping[str, str] = {}) -> Child:
        """Starts ``volgen WORDS``; a first word such as ``module:function`` is called instead, with the others as arguments."""
        self._number += 1
        log = self._logs / f"{self._number:05d}.log"
        answer = self.ask({"start": [str(word) for word in words], "log": str(log), "environment": dict(environment)})
        return Child(answer["pid"], self, log)

    def run(self, *words: object, limit: float = LIMIT) -> Done:
        """Runs a command to its end."""
        return self.start(*words).wait(limit)

    def close(self) -> None:
        """Ends the process; what it has started goes with it."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def _warm() -> None:
    import volgen

    for name in LATE:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(volgen.__path__, "volgen."):
        if not module.name.startswith(("volgen.bench", "volgen.__main__")):
            importlib.import_module(module.name)
    from volgen.parallel.engine import deepspeed

    deepspeed()
    # What is there now is no garbage: children need not look through it (DeepSpeed has them look several times).
    gc.collect()
    gc.freeze()


def _become(words: list[str], log: str, environment: dict[str, str]) -> None:
    """What a child does after the fork; it does not return."""
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.environ.update(environment)
        if ":" in words[0]:
            module, _, name = words[0].partition(":")
            getattr(importlib.import_module(module), name)(*words[1:])
            os._exit(0)
        sys.argv = ["volgen", *words]
        from volgen.cli import run

        run()
    except SystemExit as leaving:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(leaving.code or 0))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(99)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).parent))
    _warm()
    ended: dict[int, int] = {}
    children: set[int] = set()
    while True:
        # Unbuffered: a child must not find a half-read line.
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(0, 1)
            if not byte:
                for pid in children - set(ended):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                return
            line += byte
        question = json.loads(line)
        answer: dict[str, Any] = question
        if "start" in question:
            pid = os.fork()
            if pid == 0:
                _become(question["start"], question["log"], question["environment"])
            ended.pop(pid, None)  # the system gives numbers out again
            children.add(pid)
            answer = {"pid": pid}
        elif "poll" in question:
            pid = question["poll"]
            if pid not in ended:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = {"code": ended.get(pid)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _serve()
