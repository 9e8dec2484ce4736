"""What the exit code of ``volgen`` means; the one place where the numbers are."""

from __future__ import annotations

DONE = 0
CHECK_FAILED = 1
"""``--strict`` and a check failed, a question was answered with no, or an audit found something."""
BAD_INPUT = 2
"""Bad usage, configuration or data, a full disk: one message says what to do."""
DEFECT = 70
"""A defect of volgen, with a traceback."""
RANK_LOST = 75
"""A rank died, hung or could not be reached. The last checkpoint is whole: the same command goes on from it."""
SAVED = 85
"""All of the work is saved, start the same command again (``scontrol requeue``): told to stop by SIGTERM or SIGUSR1, or nobody trains
what this job's experts start from."""
INTERRUPTED = 130
"""Ctrl-C; the same command goes on."""
UNHEARD = 141
"""Whoever read the standard output has gone, as in ``volgen explain | head``; a shell says the same of programs that such a pipe ends."""
