"""A bank of experts is one denoiser: it routes each noise level to its owner and keeps only a few experts in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser
from volgen.core.span import owner
from volgen.experts._weights import Copier, Released, blank, fill
from volgen.experts.ensemble import Ensemble, check


class _Slot:
    """Storage of one expert, built when it is first filled and then used for one after another."""

    module: nn.Module
    denoiser: Denoiser
    built = False


@dataclass(frozen=True)
class _Arrival:
    """An expert on its way into memory."""

    index: int
    slot: _Slot
    loaded: Future[None]


class ExpertBank:
    """A :class:`~volgen.core.protocols.Denoiser` made of K experts of which at most ``capacity`` are in memory.

    Weights are loaded when a noise level first asks for them, and replace those of the least recently used expert in the same storage.
    While an expert works, a thread loads the next one (sampling goes down in sigma), whose SHA-256 it has checked, so a network hardly
    ever waits for a file: of the two experts in memory one works and one arrives. Files are mapped, not read as a whole, and reach a
    GPU through pinned memory on a stream of their own. With ``capacity`` 1 there is no place to load to, and the thread only checks
    the next file, which brings it into the system's page cache.

    Attributes:
        loads: index of every expert that was asked for and was not in memory, in order.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        directory: Path,
        build_network: Callable[[], nn.Module],
        wrap: Callable[[nn.Module], Denoiser],
        device: torch.device | str = "cpu",
        capacity: int = 2,
        grid: Sequence[float] | None = None,
        matrices: torch.dtype | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            ensemble: the experts.
            directory: the run directory; weight files are relative to it.
            build_network: makes the network of one expert, with any weights.
            wrap: makes a denoiser from a network.
            device: where the networks compute.
            capacity: experts in memory at once, at least 1.
            grid: noise levels that will be asked for, so that only their owners are read ahead; the ensemble's grid if None.
            matrices: type in which weights with two or more axes are kept, as the network builds them if None. Autocast makes bf16 of
                them whenever they are used: in bf16 they take half the memory, and the output is the same bit for bit.
        """
        assert capacity >= 1, "a bank holds at least one expert"
        self._ensemble, self._directory = ensemble, directory
        self._build_network, self._wrap, self._matrices = build_network, wrap, matrices
        self._device, self._capacity = torch.device(device), capacity
        self._copier = Copier(self._device)
        self._spans = ensemble.spans
        self._visited = sorted({self._owner(sigma) for sigma in (ensemble.grid if grid is None else grid)})
        self._resident: OrderedDict[int, _Slot] = OrderedDict()
        self._arriving: _Arrival | None = None
        self._current: int | None = None
        self._checked: set[int] = set()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="expert-reader")
        self.loads: list[int] = []

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """x0_BCXYZ, each volume by the owner of its noise level. No gradient is kept.

        Raises:
            UserError: a weight file is damaged or does not fit the network.
            ValueError: a noise level is above the bank's last span.
        """
        owners = [self._owner(sigma) for sigma in sigma_B.tolist()]
        with torch.no_grad():
            if len(set(owners)) == 1:
                return self._expert(owners[0])(y_BCXYZ, sigma_B, given)
            x0_BCXYZ = torch.empty_like(y_BCXYZ)
            for index in sorted(set(owners), reverse=True):
                rows = torch.tensor([row for row, found in enumerate(owners) if found == index], device=y_BCXYZ.device)
                x0_BCXYZ[rows] = self._expert(index)(y_BCXYZ[rows], sigma_B[rows], given[rows])
            return x0_BCXYZ

    @property
    def resident(self) -> list[int]:
        """Experts in memory, the least recently used first and the one that is arriving last."""
        return [*self._resident, *([self._arriving.index] if self._arriving else [])]

    def close(self) -> None:
        """Ends the reading thread, and what it has asked a GPU to copy."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._copier.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _owner(self, sigma: float) -> int:
        top = self._ensemble.sigma_max
        # The grid is float64 and tensors are float32: a rounded sigma_max may lie a hair above the last span.
        return owner(self._spans, top if top < sigma <= top * (1.0 + 1e-6) else sigma)

    def _expert(self, index: int) -> Denoiser:
        if index == self._current:
            return self._resident[index].denoiser
        if index not in self._resident:
            self._current = None  # its storage may be taken, even if what comes instead cannot be read
            self._resident[index] = self._arrived(index)
            self.loads.append(index)
        self._resident.move_to_end(index)
        self._current = index
        self._look_ahead(index)
        return self._resident[index].denoiser

    def _arrived(self, index: int) -> _Slot:
        """A slot that holds an expert, loaded now if it was not on its way."""
        arrival, self._arriving = self._arriving, None
        if arrival is not None and arrival.index != index:  # the levels do not go down one by one
            wait([arrival.loaded])
            arrival = self._begin(index, arrival.slot)
        arrival = arrival or self._begin(index, self._free())
        arrival.loaded.result()
        self._copier.wait()
        return arrival.slot

    def _look_ahead(self, index: int) -> None:
        """Begins to load the expert that will be asked for next."""
        below = [visited for visited in self._visited if visited < index]
        if not below or below[-1] in self._resident or self._arriving is not None:
            return
        if self._capacity == 1:
            self._reader.submit(self._verify, below[-1])
        else:
            self._arriving = self._begin(below[-1], self._free())

    def _free(self) -> _Slot:
        """Storage that is new, if there is room, or that of the least recently used expert."""
        return _Slot() if len(self._resident) < self._capacity else self._resident.popitem(last=False)[1]

    def _begin(self, index: int, slot: _Slot) -> _Arrival:
        return _Arrival(index, slot, self._reader.submit(self._load, index, slot, self._copier.released()))

    def _load(self, index: int, slot: _Slot, released: Released) -> None:
        """In the reading thread: builds, checks and fills."""
        if not slot.built:
            slot.module = blank(self._build_network, self._matrices, self._device).eval().requires_grad_(False)
            slot.denoiser, slot.built = self._wrap(slot.module), True
            # New storage may be what a network freed whose kernels are still to run; this one begins after they were asked for.
            released = self._copier.released()
        self._verify(index)
        path = self._directory / self._ensemble.experts[index].weights
        with self._copier.copying(released):
            fill(slot.module, path, self._copier)

    def _verify(self, index: int) -> None:
        """Each file is checked once."""
        if index in self._checked:
            return
        check(self._directory, self._ensemble.experts[index])
        self._checked.add(index)
