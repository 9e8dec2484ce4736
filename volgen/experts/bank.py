"""A bank of experts is one denoiser: it routes each noise level to its owner and keeps only a few experts in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.protocols import Denoiser
from volgen.core.span import owner
from volgen.experts.ensemble import Ensemble


class ExpertBank:
    """A :class:`~volgen.core.protocols.Denoiser` made of K experts of which at most ``capacity`` are resident.

    Weights are loaded when a noise level first asks for them and replace those of the least recently used expert, in the same
    storage. While an expert works, a thread reads the file of the next one (sampling goes down in sigma) to check its SHA-256;
    that brings the file into the system's page cache, so the load that follows does not wait for the disk, and no memory
    is held that the system could not take back.

    A solver that looks at both ends of a step (Heun) needs ``capacity`` 2 to load each expert once.

    Attributes:
        loads: index of every expert loaded so far, in order.
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
        """
        assert capacity >= 1, "a bank holds at least one expert"
        self._ensemble, self._directory = ensemble, directory
        self._build_network, self._wrap = build_network, wrap
        self._device, self._capacity = torch.device(device), capacity
        self._spans = ensemble.spans
        self._visited = sorted({self._owner(sigma) for sigma in (ensemble.grid if grid is None else grid)})
        self._resident: OrderedDict[int, tuple[nn.Module, Denoiser]] = OrderedDict()
        self._checked: dict[int, Future[None]] = {}
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="expert-reader")
        self.loads: list[int] = []

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
        """x0_BCXYZ, each volume by the owner of its noise level. No gradient is kept.

        Raises:
            UserError: a weight file is damaged or does not fit the network.
            ValueError: a noise level is above the bank's last span.
        """
        owners = [self._owner(sigma) for sigma in sigma_B.tolist()]
        with torch.no_grad():
            if len(set(owners)) == 1:
                return self._expert(owners[0])(y_BCXYZ, sigma_B)
            x0_BCXYZ = torch.empty_like(y_BCXYZ[:, :1])
            for index in sorted(set(owners), reverse=True):
                rows = torch.tensor([row for row, found in enumerate(owners) if found == index], device=y_BCXYZ.device)
                x0_BCXYZ[rows] = self._expert(index)(y_BCXYZ[rows], sigma_B[rows])
            return x0_BCXYZ

    @property
    def resident(self) -> list[int]:
        """Experts in memory, the least recently used first."""
        return list(self._resident)

    def close(self) -> None:
        """Ends the reading thread."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _owner(self, sigma: float) -> int:
        top = self._ensemble.sigma_max
        # The grid is float64 and tensors are float32: a rounded sigma_max may lie a hair above the last span.
        return owner(self._spans, top if top < sigma <= top * (1.0 + 1e-6) else sigma)

    def _expert(self, index: int) -> Denoiser:
        if index in self._resident:
            self._resident.move_to_end(index)
            return self._resident[index][1]
        self._check(index).result()
        if len(self._resident) < self._capacity:
            module = self._build_network().to(self._device).eval().requires_grad_(False)
            denoiser = self._wrap(module)
        else:
            _, (module, denoiser) = self._resident.popitem(last=False)
        self._fill(module, index)
        self._resident[index] = (module, denoiser)
        self.loads.append(index)
        below = [visited for visited in self._visited if visited < index]
        if below:
            self._check(below[-1])
        return denoiser

    def _check(self, index: int) -> Future[None]:
        """The check of one expert's file, begun if it was not: each file is checked once."""
        if index not in self._checked:
            self._checked[index] = self._reader.submit(self._verify, index)
        return self._checked[index]

    def _verify(self, index: int) -> None:
        record = self._ensemble.experts[index]
        path = self._directory / record.weights
        try:
            found = sha256(path)
        except OSError as error:
            raise UserError(str(path), f"cannot be read ({error.strerror})", f"the weights of expert {index}") from None
        if found != record.sha256:
            raise UserError(
                str(path), f"has SHA-256 {found[:12]}...", f"{record.sha256[:12]}..., as ensemble.json says",
                "the file was changed or damaged after training: restore it from a copy or train the expert again",
            )  # fmt: skip

    def _fill(self, module: nn.Module, index: int) -> None:
        path = self._directory / self._ensemble.experts[index].weights
        try:
            module.load_state_dict(load_file(path))  # strict, and into the module's own storage
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                str(path), f"does not hold the weights of this network ({reason[:200]})", "the network in the run's config.yaml"
            ) from None
