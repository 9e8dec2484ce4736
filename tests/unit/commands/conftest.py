"""What tests of stages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from volgen.core.manifest import checksums
from volgen.core.run_files import ENSEMBLE
from volgen.experts import ensemble as ensembles


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """``reseal(run)``: the files of a finished run are as they should be, whatever a test has made of them."""

    def again(run: Path) -> None:
        path = run / ENSEMBLE
        bank = ensembles.read(path)
        ensembles.write(path, replace(bank, files=checksums(run, bank.files)))

    return again
