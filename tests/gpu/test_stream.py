"""Batches on their way from the store to the device: in pinned memory where that helps, and with the voxels that they had."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
import torch
from part import Part

from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig

LIMIT = {"cuda": 60, "cpu": 180}
TURN = 2
pytestmark = pytest.mark.gpu
BATCHES, BATCH = 8, 2


def _one_behind(patch: pytest.MonkeyPatch) -> None:
    """Voxels of the batch before: what a buffer that is used too early would give."""
    real = Stream.batch
    patch.setattr(Stream, "batch", lambda self, step: real(self, max(step - 1, 0) if self.config.workers > 1 else step))


@pytest.mark.mutant.with_args(_one_behind)
def test_what_arrives_is_what_was_stored(part: Part) -> None:
    def config(workers: int) -> StreamConfig:
        shape = (part.sizes.large,) * 3
        return StreamConfig(store=str(part.work / "LARGE"), shape=shape, batch_size=BATCH, workers=workers, cache_gib=0.0)

    store = Store.open(str(part.work / "LARGE"))
    with closing(Stream(store, "train", config(4), 0)) as stream, closing(Stream(store, "train", config(1), 0)) as plain:
        stream.batch(0)
        arrived, began = [], time.monotonic()
        for step in range(BATCHES):
            x = stream.batch(step).x_BCXYZ
            assert x.is_pinned() == (part.device == "cuda")
            arrived.append(x.to(part.device, non_blocking=True))
            del x  # its memory may be given to the next batch as soon as the copy is over, and no sooner
        if part.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - began
        part.say(f"volumes of {part.sizes.large}^3 from the store to the device", BATCHES * BATCH / seconds, "volumes/s")
        for step, there in enumerate(arrived):
            assert torch.equal(there.cpu(), plain.batch(step).x_BCXYZ)
