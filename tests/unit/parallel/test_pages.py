"""Pages of large tensors: how many the kernel hands out, counted, in and after a block that keeps them.

Each case has a process of its own: in one that has run other tests, memory that these have left serves large tensors, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from volgen.parallel import pages
from volgen.parallel.pages import kept_pages

ELEMENTS, TIMES = 2**24, 8  # 64 MiB: above any threshold that the C library comes to by itself
PAGES = ELEMENTS * 4 // os.sysconf("SC_PAGE_SIZE")
COUNTED = f"""
import resource, torch
from volgen.parallel.pages import kept_pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TIMES}):
        torch.ones({ELEMENTS})
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

try:
    with kept_pages():
        faults()  # until there is a place that fits
        print(faults())
        raise ZeroDivisionError
except ZeroDivisionError:
    print(faults())
"""
pytestmark = pytest.mark.skipif(pages._library() is None, reason="the C library of this machine is not GNU's")


def counted(**settings: str) -> tuple[int, int]:
    """Page faults while a large tensor comes and goes: in the block, and after an error has ended it."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith(pages.SETTINGS)}
    said = subprocess.run([sys.executable, "-c", COUNTED], env={**usual, **settings}, check=True, capture_output=True, text=True).stdout
    inside, after = map(int, said.split())
    return inside, after


def test_inside_the_pages_of_one_tensor_are_those_of_the_next_and_afterwards_they_are_given_back() -> None:
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if huge.is_file() and "[always]" in huge.read_text():
        pytest.skip("this machine gives large tensors pages of 2 MiB, so there are few to count")
    inside, after = counted()
    assert inside <= 2 * PAGES and after > (TIMES - 1) * PAGES


def test_an_error_goes_on_through_it() -> None:
    with pytest.raises(ZeroDivisionError), kept_pages():
        raise ZeroDivisionError


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_nothing_is_done_where_the_environment_says_how_memory_is_allocated(name: str) -> None:
    inside, after = counted(**{name: "8" if name.startswith("MALLOC") else ""})
    assert inside == pytest.approx(after, rel=0.2)
