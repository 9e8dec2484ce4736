"""What the tests of faults share: one scene for each test process, the form (short or full), and the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import scene as scenes
from scene import Scene
from tally import Tally

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the full form was asked for."""
    return bool(request.config.getoption("--faults") == "full")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = scenes.make(tmp_path_factory.mktemp("faults"))
    yield made
    made.nursery.close()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str, str], AbstractContextManager[Tally]]:
    """``with tally(fault, where) as line:``: a line of the table; the test fails at its end if anything was lost."""
    named = request.config.getoption("--faults-table")

    @contextmanager
    def count(fault: str, where: str) -> Iterator[Tally]:
        line = Tally(fault, where, Path(named) if named else None)
        yield line
        line.close()

    return count
