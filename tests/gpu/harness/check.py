"""Runs the parts of the GPU check, each in a process of its own: python check.py OUT [--cpu] [--minutes M] [--only PART ...]

A part is a file ``test_NAME.py`` of the folder above, which says ``LIMIT`` (seconds on each kind of device) and ``TURN`` (0: before all
others, 1: alone, because it measures, 2: beside others). A part that fails, hangs or dies leaves the others as they are. ``check.json`` and
``check.md`` in OUT are written anew whenever a part begins or ends and every two seconds, so a check that is killed leaves a report.

Exit code: the number of parts that did not pass.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
SECONDS_BETWEEN_REPORTS, SECONDS_BETWEEN_LOOKS = 2.0, 0.1
NOT_RUN, RUNNING, PASSED, FAILED, OUT_OF_TIME = "not run", "running", "passed", "failed", "out of time"
MOST_SAID = 3000


@dataclass
class Part:
    """A part and how far it is.

    Attributes:
        name: of its file, without ``test_``.
        title: the first line of its docstring.
        limit: seconds.
        turn: when it runs.
        outcome: one of the words above.
        seconds: since it began, or that it took.
    """

    name: str
    title: str
    limit: float
    turn: int
    outcome: str = NOT_RUN
    seconds: float = 0.0
    began: float = 0.0
    allowed: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path, device: str) -> Part:
        """What a file says of itself; it is not imported, which takes seconds."""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        said = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in ("LIMIT", "TURN")
        }
        title = (ast.get_docstring(tree) or path.stem).splitlines()[0]
        return cls(path.stem.removeprefix("test_"), title, float(said["LIMIT"][device]), int(said["TURN"]))


class Check:
    """All parts, their processes and the report.

    Args:
        parts: in the order in which they begin.
        folder: of their files.
        out: where everything goes.
        device: ``cuda`` or ``cpu``.
        seconds: for everything.
        jobs: parts of the last turn that run side by side.
    """

    def __init__(self, parts: Sequence[Part], folder: Path, out: Path, device: str, seconds: float, jobs: int) -> None:
        self.parts, self._folder, self._out, self._device, self._jobs = parts, folder, out, device, jobs
        self._began, self._seconds, self._reported = time.monotonic(), seconds, 0.0
        self._records = out / "records"
        self._records.mkdir(parents=True, exist_ok=True)

    def run(self) -> int:
        """Returns how many parts did not pass."""
        try:
            while any(part.outcome in (NOT_RUN, RUNNING) for part in self.parts) and (self._running() or self._left() > 0):
                changed = self._end() | self._begin()
                if changed or time.monotonic() - self._reported > SECONDS_BETWEEN_REPORTS:
                    self.report()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            for part in self._running():
                self._kill(part)
            self.report()
        return sum(part.outcome != PASSED for part in self.parts)

    def _running(self) -> list[Part]:
        return [part for part in self.parts if part.outcome == RUNNING]

    def _left(self) -> float:
        return self._seconds - (time.monotonic() - self._began)

    def _begin(self) -> bool:
        """Starts what may start now."""
        waiting = [part for part in self.parts if part.outcome == NOT_RUN]
        if not waiting or self._left() <= 0:
            return False
        part, running = waiting[0], self._running()
        if running and (part.turn < 2 or any(other.turn < 2 for other in running) or len(running) >= self._jobs):
            return False
        part.began, part.allowed, part.outcome = time.monotonic(), min(part.limit, self._left()), RUNNING
        with (self._records / f"{part.name}.log").open("wb") as log:
            words = [
                "-q",
                "-c",
                str(ROOT / "pyproject.toml"),
                "-p",
                "no:cacheprovider",
                "-n",
                "0",
                "-m",
                "gpu",
                "-W",
                "default",
                "-o",
                "timeout=0",
            ]
            part.process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *words, str(self._folder / f"test_{part.name}.py")], cwd=ROOT,
                env=self._environment(part), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        print(f"[{time.monotonic() - self._began:4.0f} s] {part.name}: {part.title}", flush=True)
        return True

    def _end(self) -> bool:
        """Takes in what has ended, and ends what has no time left."""
        changed = False
        for part in self._running():
            assert part.process is not None
            code = part.process.poll()
            part.seconds = time.monotonic() - part.began
            if code is None and part.seconds < part.allowed:
                continue
            part.outcome = OUT_OF_TIME if code is None else PASSED if code == 0 else FAILED
            self._kill(part)
            changed = True
            print(f"[{time.monotonic() - self._began:4.0f} s] {part.name}: {part.outcome}, {part.seconds:.0f} s", flush=True)
        return changed

    def _kill(self, part: Part) -> None:
        """Ends a part with everything that it has started."""
        assert part.process is not None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(part.process.pid, signal.SIGKILL)
        part.process.wait()
        part.seconds = time.monotonic() - part.began
        if part.outcome == RUNNING:
            part.outcome = OUT_OF_TIME

    def _environment(self, part: Part) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0))
        kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "DS_ACCELERATOR")}
        if self._device == "cpu":
            kept |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        threads = max(1, cores if part.turn < 2 else cores // self._jobs) if self._device == "cuda" else 1
        return kept | {
            "VOLGEN_CHECK_DEVICE": self._device, "VOLGEN_CHECK_WORK": str(self._work()), "VOLGEN_CHECK_RECORD": str(self._record(part)),
            "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]),
            "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def _work(self) -> Path:
        (self._out / "work").mkdir(exist_ok=True)
        return self._out / "work"

    def _record(self, part: Part) -> Path:
        return self._records / f"{part.name}.jsonl"

    def report(self) -> None:
        """Writes ``check.json`` and ``check.md``."""
        self._reported = time.monotonic()
        content = {
            "device": self._device,
            "seconds": round(time.monotonic() - self._began, 1),
            "failed": [part.name for part in self.parts if part.outcome not in (PASSED, RUNNING)],
            "parts": [self._told(part) for part in self.parts],
        }
        for name, text in (("check.json", json.dumps(content, indent=2) + "\n"), ("check.md", "\n".join(table(content)) + "\n")):
            partial = self._out / f".{name}"
            partial.write_text(text, encoding="utf-8")
            partial.replace(self._out / name)

    def _told(self, part: Part) -> dict[str, Any]:
        lines = list(_lines(self._record(part)))
        log = self._records / f"{part.name}.log"
        said = ""
        if part.outcome in (FAILED, OUT_OF_TIME) and log.exists():
            said = log.read_text(encoding="utf-8", errors="replace")[-MOST_SAID:]
        return {
            "part": part.name, "title": part.title, "outcome": part.outcome, "seconds": round(part.seconds, 1), "limit": part.limit,
            "tests": [line for line in lines if "test" in line], "figures": [line for line in lines if "figure" in line], "said": said,
        }  # fmt: skip


def _lines(record: Path) -> Iterator[dict[str, Any]]:
    """What a part has recorded; its last line may be half written."""
    if record.exists():
        for text in record.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                yield json.loads(text)


def table(content: dict[str, Any]) -> list[str]:
    """The report in Markdown: parts, what failed, figures."""
    lines = [f"# GPU check on {content['device']}, {content['seconds']:.0f} s", "", "| part | | seconds | |", "|---|---|---|---|"]
    lines += [f"| {part['part']} | {part['outcome']} | {part['seconds']:.0f} | {_cell(part['title'])} |" for part in content["parts"]]
    wrong = [(part, test) for part in content["parts"] for test in part["tests"] if test["outcome"] != "passed"]
    for part, test in wrong:
        last = (test["said"].strip().splitlines() or [""])[-1]
        lines += ["", f"**{part['part']}, {test['test']}: {test['outcome']}.** {last}"]
    for part in content["parts"]:
        if part["figures"]:
            lines += ["", f"## {part['part']}", "", "| | value | predicted |", "|---|---|---|"]
        for figure in part["figures"]:
            values = [_value(figure[key], figure["unit"]) if key in figure else "" for key in ("value", "predicted")]
            lines.append(f"| {_cell(figure['figure'])} | {' | '.join(values)} |")
    return lines


def _value(value: Any, unit: str) -> str:
    return f"{value:.4g} {unit}".strip() if isinstance(value, float | int) else _cell(str(value))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--parts", type=Path, default=HERE)
    options = parser.parse_args()
    device = "cpu" if options.cpu else "cuda"
    parts = sorted((Part.read(path, device) for path in options.parts.glob("test_*.py")), key=lambda part: (part.turn, part.name))
    if strange := {*options.only} - {part.name for part in parts}:
        parser.error(f"there is no part {' '.join(sorted(strange))}")
    # What comes before all others makes what they need.
    parts = [part for part in parts if not options.only or part.name in options.only or part.turn == 0]
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    check = Check(parts, options.parts.resolve(), out, device, 60 * options.minutes, jobs=max(1, min(4, len(os.sched_getaffinity(0)))))
    # A scheduler's signal ends the check as an error would: what runs is killed, and the report is written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(len(parts)))
    failed = check.run()
    print((out / "check.md").read_text(encoding="utf-8"))
    return failed


if __name__ == "__main__":
    sys.exit(main())
