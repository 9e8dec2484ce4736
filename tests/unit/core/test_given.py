"""What is known beside volumes goes with them: through rows, batches and devices."""

from __future__ import annotations

import torch

from volgen.core.given import NOTHING, Examples, Given


def some(count: int, first: float = 0.0) -> Given:
    number = torch.arange(count) + first
    return Given(number.view(-1, 1, 1, 1, 1).expand(count, 2, 3, 4, 5), number.view(-1, 1, 1).expand(count, 6, 7), {"age": number})


def test_rows_of_all_that_is_given_are_the_same_rows() -> None:
    for rows in (slice(1, 3), [1, 2], torch.tensor([1, 2])):
        part = some(4)[rows]
        assert part.channels is not None and part.tokens is not None
        assert part.channels.shape == (2, 2, 3, 4, 5) and part.tokens.shape == (2, 6, 7)
        for tensor in (part.channels[:, 0, 0, 0, 0], part.tokens[:, 0, 0], part.values["age"]):
            assert tensor.tolist() == [1.0, 2.0]


def test_batches_one_after_another_are_one_batch() -> None:
    both = Examples.joined([Examples(torch.zeros(2, 1, 3, 4, 5), some(2)), Examples(torch.ones(1, 1, 3, 4, 5), some(1, 2.0))])
    assert len(both) == 3 and both.x_BCXYZ[:, 0, 0, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert both.given.values["age"].tolist() == [0.0, 1.0, 2.0]
    assert both.given.channels is not None and torch.equal(both[2:].given.values["age"], torch.tensor([2.0]))


def test_nothing_stays_nothing() -> None:
    assert NOTHING.to("cpu") is NOTHING and NOTHING[1:] is NOTHING
    assert Examples.joined([Examples(torch.zeros(1, 1, 2, 2, 2))] * 2).given.channels is None


def test_a_single_example_is_not_copied() -> None:
    x = torch.zeros(1, 1, 2, 2, 2)
    assert Examples.joined([Examples(x)]).x_BCXYZ.data_ptr() == x.data_ptr()
