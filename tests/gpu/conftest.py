"""Fixtures of the GPU check: its parts are the files of this folder, each a process of its own when `launch/gpu_check.sh` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from part import Part, append

MUTANTS = "VOLGEN_CHECK_MUTANTS"
"""With this variable every test runs with what it is about broken (its mark ``mutant``), and has to notice."""
_SAID = 2000
_part = pytest.StashKey[Part]()


@pytest.fixture(scope="session")
def part(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Part:
    """Where this part computes and what it may use; the stores are there."""
    made = Part.of_environment(tmp_path_factory.mktemp("check"))
    request.config.stash[_part] = made
    made.made()
    return made


@pytest.fixture(autouse=True)
def broken(request: pytest.FixtureRequest, part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks what a test is about, if that is asked for; after the stores are made."""
    if os.environ.get(MUTANTS):
        mark = request.node.get_closest_marker("mutant")
        assert mark is not None, "every test of the check says what has to make it fail"
        mark.args[0](monkeypatch)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Records how a test ended, at once."""
    report = yield
    part = item.config.stash.get(_part, None)
    if part is not None and part.record is not None and (report.when == "call" or report.outcome != "passed"):
        said = "" if report.outcome == "passed" else str(report.longreprtext or call.excinfo)[-_SAID:]
        line = {"test": item.name, "outcome": report.outcome, "seconds": round(report.duration, 2), "said": said}
        append(part.record, line)
    return report
