"""``python -m volgen``: what a launcher starts, where the ``volgen`` script may not be on its path."""

from __future__ import annotations

import sys

from volgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
