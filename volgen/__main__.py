"""``python -m volgen``: what a launcher starts, where the ``volgen`` script may not be on its path."""

from __future__ import annotations

from volgen.cli import run

if __name__ == "__main__":
    run()
