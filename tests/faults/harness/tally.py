"""What was injected and what came of it: counted by the tests, added up and printed as a table for people.

python tests/faults/harness/tally.py TABLE.jsonl      prints the table in Markdown; exit code 1 if anything was lost
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

End = Literal["survived", "refused", "lost"]
"""``survived``: the outcome is the undisturbed one, at once or when the same command is given again; ``refused``: one message says what is
wrong, exit code 2; ``lost``: anything else: a wrong result, a traceback, a hang, leftovers, a refusal of what was not damaged."""
ENDS: tuple[End, ...] = ("survived", "refused", "lost")


@dataclass
class Tally:
    """One line of the table.

    Attributes:
        fault: kind of fault, such as ``power cut``.
        where: command or file that it struck.
        file: where the line goes at the end, if anywhere.
    """

    fault: str
    where: str
    file: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def add(self, end: End, what: str) -> None:
        """Counts one fault; ``what`` describes it, should it be lost."""
        self.counts[end] += 1
        if end == "lost":
            self.lost.append(what)

    def close(self) -> None:
        """Writes the line; a test fails here if something was lost."""
        if self.file is not None:
            line = json.dumps({"fault": self.fault, "where": self.where, **{end: self.counts[end] for end in ENDS}, "what": self.lost})
            handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line.encode() + b"\n")
            finally:
                os.close(handle)
        told = "\n".join(self.lost[:20])
        assert not self.lost, f"{self.fault}, {self.where}: {len(self.lost)} of {self.counts.total()} lost\n{told}"


def markdown(lines: list[dict[str, object]]) -> str:
    """The table."""
    sums: dict[tuple[str, str], Counter[str]] = {}
    for line in lines:
        counts = sums.setdefault((str(line["fault"]), str(line["where"])), Counter())
        counts.update({end: int(str(line[end])) for end in ENDS})
    total: Counter[str] = sum(sums.values(), Counter())
    rows = [(fault, where, counts) for (fault, where), counts in sums.items()] + [("**all**", "", total)]
    text = "\n".join(f"| {fault} | {where} | {c.total()} | {c['survived']} | {c['refused']} | {c['lost']} |" for fault, where, c in rows)
    return f"| fault | in | injected | survived | refused | lost |\n|---|---|---|---|---|---|\n{text}"


if __name__ == "__main__":
    found = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    print(markdown(found))
    sys.exit(any(line["lost"] for line in found))
