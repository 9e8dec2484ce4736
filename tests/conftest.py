"""Fixtures for every test."""

from __future__ import annotations

import os

# Before torch is imported: tests share the machine's cores with each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real scans named by VOLGEN_TEST_DATA (brains-2mm/ and native/); skips, saying so, without it."""
    named = os.environ.get("VOLGEN_TEST_DATA")
    if not named:
        pytest.skip("VOLGEN_TEST_DATA is not set: this test needs the folder of real scans that holds brains-2mm/ and native/")
    folder = Path(named)
    if not (folder / "brains-2mm").is_dir():
        pytest.fail(f"VOLGEN_TEST_DATA is {folder}, which has no brains-2mm/")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample cohort as a BIDS tree, as `volgen cohort` gives it out."""
    from volgen.cohort import copy_to

    return copy_to(tmp_path_factory.mktemp("cohort") / "cohort")
