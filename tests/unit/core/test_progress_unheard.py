"""A run goes on when nobody listens any more."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, time
from volgen.core.progress import say
sys.stdin.readline()
for number in range(3):
    say(f"line {number}")
print("done")
"""


def test_a_reader_that_has_gone_ends_nothing(repository: object) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], cwd=str(repository), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None and process.stdin is not None and process.stdout is not None
    process.stderr.close()
    process.stdin.write("\n")
    process.stdin.close()
    with process.stdout as said:
        assert said.read() == "done\n", "standard output is heard"
    assert process.wait(60) == 0
