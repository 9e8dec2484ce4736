"""Pages of large tensors: how many the kernel hands out, counted, in and after a block that keeps them."""

from __future__ import annotations

import os
import resource

import pytest
import torch

from volgen.parallel import pages
from volgen.parallel.pages import kept_pages

ELEMENTS, TIMES = 2**24, 8  # 64 MiB: above any threshold that the C library comes to by itself
PAGES = ELEMENTS * 4 // os.sysconf("SC_PAGE_SIZE")


def faults() -> int:
    """Page faults while a large tensor comes and goes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(TIMES):
        torch.ones(ELEMENTS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.fixture(autouse=True)
def _usual(monkeypatch: pytest.MonkeyPatch) -> None:
    if pages._library() is None:
        pytest.skip("the C library of this machine is not GNU's")
    for name in [name for name in os.environ if name.startswith(pages.SETTINGS)]:
        monkeypatch.delenv(name)


def test_inside_the_pages_of_one_tensor_are_those_of_the_next_and_afterwards_they_are_given_back() -> None:
    with kept_pages():
        faults()  # until there is a place that fits
        inside = faults()
    assert inside < PAGES // 8 and faults() > (TIMES - 1) * PAGES


def test_an_error_ends_it_too() -> None:
    with pytest.raises(ZeroDivisionError), kept_pages():
        raise ZeroDivisionError
    assert faults() > (TIMES - 1) * PAGES


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_nothing_is_done_where_the_environment_says_how_memory_is_allocated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    with kept_pages():
        assert faults() > (TIMES - 1) * PAGES
