"""``python -m volgen.bench NAME ...`` is ``volgen bench NAME ...``."""

from __future__ import annotations

import sys

from volgen.cli import main

sys.exit(main(["bench", *sys.argv[1:]]))
