"""Allocations of tiny computations, counted by hand."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from volgen.parallel.memory_trace import Allocations, conv_workspace

FLOAT = 4


def test_activations_of_a_tiny_network_by_hand() -> None:
    """x [5, 8] -> h = x W [5, 16] -> a = exp(h) [5, 16] -> loss = sum(a)."""
    x, weight = torch.randn(5, 8), torch.randn(8, 16, requires_grad=True)
    with Allocations() as forward:
        loss = (x @ weight).exp().sum()
    # exp keeps its result for the backward pass; h is freed, but lives beside it for a moment.
    assert forward.now == FLOAT * (5 * 16 + 1)
    assert forward.peak == FLOAT * (5 * 16 * 2)
    with Allocations() as backward:
        loss.backward()
    assert backward.now == FLOAT * 8 * 16  # the gradient


def test_fake_tensors_are_counted_like_real_ones() -> None:
    def run() -> tuple[int, int]:
        network = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Conv3d(8, 1, 3))
        with Allocations() as followed:
            network(torch.zeros(2, 1, 12, 12, 12)).square().mean().backward()
        return followed.peak, followed.now

    real = run()
    with FakeTensorMode():
        assert run() == real


def test_views_and_freed_tensors_do_not_count() -> None:
    with Allocations() as followed:
        tensor = torch.ones(100)
        view = tensor.view(10, 10).T
        assert followed.now == 400
        del tensor
        assert followed.now == 400
        del view
        assert (followed.now, followed.peak) == (0, 400)


def test_what_is_marked_is_counted_apart() -> None:
    with Allocations() as followed:
        kept = torch.ones(100)
        followed.mark(400)
        more = torch.ones(50)
    assert len(kept) + len(more) == 150
    assert (followed.peak, followed.peak_apart) == (600, 400)


def test_convolutions_take_blocks_of_sixteen_channels() -> None:
    x, weight = torch.zeros(1, 3, 8, 8, 8), torch.zeros(20, 3, 3, 3, 3)
    with Allocations(conv_workspace) as followed:
        torch.conv3d(x, weight)
    blocks = 16 * 8**3 + 20 * 16 * 27 + 32 * 6**3
    assert followed.peak == FLOAT * (20 * 6**3 + blocks)
