"""A bank of experts is one denoiser: it routes each noise level to its owner and keeps only a few experts in memory."""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser
from volgen.core.span import owner
from volgen.experts._weights import Copier, Released, blank, fill
from volgen.experts.ensemble import Ensemble, check


class Maker(Protocol):
    """Makes experts of one model. Experts that have one maker use the same storage, one after another."""

    def build(self) -> nn.Module:
        """The network of an expert, with any weights."""
        ...

    def wrap(self, module: nn.Module) -> Denoiser:
        """The denoiser of whole volumes that a network stands for."""
        ...


class _Slot:
    """Storage of one expert, built when it is first filled and then used for one after another of the same maker."""

    module: nn.Module
    denoiser: Denoiser
    built = False

    def __init__(self, maker: Maker) -> None:
        self.maker = maker
        self._graphs: weakref.WeakSet[_Graph] = weakref.WeakSet()

    @property
    def needed(self) -> bool:
        """Whether a gradient may still be taken through what this expert returned."""
        return bool(self._graphs)

    def ask(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given) -> Tensor:
        """The expert's x0_BCXYZ. As long as a graph of it lives, these weights are needed."""
        x0_BCXYZ = self.denoiser(y_BCXYZ, sigma_B, given)
        if not x0_BCXYZ.requires_grad:
            return x0_BCXYZ
        graph = _Graph()
        self._graphs.add(graph)
        kept: Tensor = _Keep.apply(x0_BCXYZ, graph)  # type: ignore[no-untyped-call]
        return kept


class _Graph:
    """Lives as long as a graph of autograd in which it was kept."""


class _Keep(torch.autograd.Function):
    """The identity; its node in the graph holds an object."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: _Graph) -> Tensor:
        ctx.graph = graph
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


@dataclass(frozen=True)
class _Arrival:
    """An expert on its way into memory."""

    index: int
    slot: _Slot
    loaded: Future[None]


class ExpertBank:
    """A :class:`~volgen.core.protocols.Denoiser` made of K experts of which at most ``capacity`` are in memory.

    Weights are loaded when a noise level first asks for them, and replace those of the least recently used expert, in the same storage if
    both are of one model. While an expert works, a thread loads the next one on the path, whose SHA-256 it has checked, so a network
    hardly ever waits for a file: of the two experts in memory one works and one arrives. Files are mapped, not read as a whole, and reach a
    GPU through pinned memory on a stream of their own. With ``capacity`` 1 there is no place to load to, and the thread only checks
    the next file, which brings it into the system's page cache.

    Attributes:
        loads: index of every expert that was asked for and was not in memory, in order.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        directory: Path,
        makers: Sequence[Maker],
        device: torch.device | str = "cpu",
        capacity: int = 2,
        levels: Sequence[float] | None = None,
        matrices: torch.dtype | None = None,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            ensemble: the experts.
            directory: the run directory; weight files are relative to it.
            makers: what makes the network of each expert; one object for experts of the same model.
            device: where the networks compute.
            capacity: experts in memory at once, at least 1.
            levels: noise levels in the order in which they will be asked for, so that owners are read ahead; the ensemble's grid if None.
            matrices: type in which weights with two or more axes are kept, as the network builds them if None. Autocast makes bf16 of
                them whenever they are used: in bf16 they take half the memory, and the output is the same bit for bit.
        """
        assert capacity >= 1, "a bank holds at least one expert"
        assert len(makers) == len(ensemble.experts), "each expert has a maker"
        self._ensemble, self._directory = ensemble, directory
        self._makers, self._matrices = makers, matrices
        self._device, self._capacity = torch.device(device), capacity
        self._copier = Copier(self._device)
        self._spans = ensemble.spans
        owners = [self.owner(sigma) for sigma in (ensemble.grid if levels is None else levels)]
        self._order = [index for index, _ in itertools.groupby(owners)]
        self._place = 0
        self._resident: OrderedDict[int, _Slot] = OrderedDict()
        self._arriving: _Arrival | None = None
        self._current: int | None = None
        self._checked: set[int] = set()
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="expert-reader")
        self.loads: list[int] = []

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """x0_BCXYZ, each volume by the owner of its noise level.

        With gradients enabled, and ``y_BCXYZ`` wanting one, a graph is kept, and no expert is overwritten whose graph lives: where more are
        needed at once than ``capacity``, more are in memory. Weights get no gradients.

        Raises:
            UserError: a weight file is damaged or does not fit the network.
            ValueError: a noise level is above the bank's last span.
        """
        owners = [self.owner(sigma) for sigma in sigma_B.tolist()]
        with torch.set_grad_enabled(torch.is_grad_enabled() and y_BCXYZ.requires_grad):
            if len(set(owners)) == 1:
                return self._expert(owners[0]).ask(y_BCXYZ, sigma_B, given)
            x0_BCXYZ = torch.empty_like(y_BCXYZ)
            for index in sorted(set(owners), reverse=True):
                rows = torch.tensor([row for row, found in enumerate(owners) if found == index], device=y_BCXYZ.device)
                x0_BCXYZ[rows] = self._expert(index).ask(y_BCXYZ[rows], sigma_B[rows], given[rows])
            return x0_BCXYZ

    def network(self, index: int) -> nn.Module:
        """The bare network of an expert, in memory until another expert is asked for.

        Raises:
            UserError: its weight file is damaged or does not fit.
        """
        return self._expert(index).module

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

    def owner(self, sigma: float) -> int:
        """Index of the expert that owns a noise level.

        Raises:
            ValueError: it is above the bank's last span.
        """
        top = self._ensemble.sigma_max
        # The grid is float64 and tensors are float32: a rounded sigma_max may lie a hair above the last span.
        return owner(self._spans, top if top < sigma <= top * (1.0 + 1e-6) else sigma)

    def _expert(self, index: int) -> _Slot:
        if index == self._current:
            return self._resident[index]
        if index not in self._resident:
            self._current = None  # its storage may be taken, even if what comes instead cannot be read
            self._resident[index] = self._arrived(index)
            self.loads.append(index)
        self._resident.move_to_end(index)
        self._current = index
        self._look_ahead(index)
        return self._resident[index]

    def _arrived(self, index: int) -> _Slot:
        """A slot that holds an expert, loaded now if it was not on its way."""
        arrival, self._arriving = self._arriving, None
        if arrival is not None and arrival.index != index:  # the levels do not come in the order that was told
            wait([arrival.loaded])
            self._copier.wait()  # its storage may be given away, and a GPU may still be copying to it
            arrival = self._begin(index, self._usable(arrival.slot, index))
        arrival = arrival or self._begin(index, self._free(index))
        arrival.loaded.result()
        self._copier.wait()
        return arrival.slot

    def _look_ahead(self, index: int) -> None:
        """Begins to load the expert that will be asked for next."""
        # Where it is on the path: at its next visit, or, in the next round, at its first.
        places = [place for place, visited in enumerate(self._order) if visited == index]
        if not places:
            return
        self._place = next((place for place in places if place >= self._place), places[0])
        following = self._order[self._place + 1 : self._place + 2]
        if not following or following[0] in self._resident or self._arriving is not None:
            return
        if self._capacity == 1:
            self._reader.submit(self._verify, following[0])
        elif len(self._resident) < self._capacity or self._idle():
            self._arriving = self._begin(following[0], self._free(following[0]))

    def _free(self, index: int) -> _Slot:
        """Storage for an expert: new, if there is room or nobody can be spared, or that of the least recently used one."""
        if len(self._resident) < self._capacity:
            return _Slot(self._makers[index])
        idle = self._idle()
        surplus = len(self._resident) - self._capacity  # from when gradients needed more than there was room for
        for other in idle[1 : 1 + surplus]:
            del self._resident[other]
        return self._usable(self._resident.pop(idle[0]), index) if idle else _Slot(self._makers[index])

    def _usable(self, slot: _Slot, index: int) -> _Slot:
        """Storage that an expert can have: what another of its model had, or new."""
        return slot if slot.maker is self._makers[index] else _Slot(self._makers[index])

    def _idle(self) -> list[int]:
        """Experts that can be spared, the least recently used first: neither the one that works, nor one whose graph lives."""
        return [index for index, slot in self._resident.items() if index != self._current and not slot.needed]

    def _begin(self, index: int, slot: _Slot) -> _Arrival:
        return _Arrival(index, slot, self._reader.submit(self._load, index, slot, self._copier.released()))

    def _load(self, index: int, slot: _Slot, released: Released) -> None:
        """Builds, checks and fills a network, in the reading thread."""
        if not slot.built:
            slot.module = blank(slot.maker.build, self._matrices, self._device).eval().requires_grad_(False)
            slot.denoiser, slot.built = slot.maker.wrap(slot.module), True
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
