"""An engine whose gradients pass through the caller's hands, one patient at a time, before DeepSpeed sees any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from volgen.parallel.by_name import gathered
from volgen.parallel.engine import Engine, EngineConfig, Release


class PerSampleGradients(Protocol):
    """Gradients of every sample of one pass (``volgen/privacy``)."""

    def inputs(self, input_BCXYZ: Tensor, noise_B: Tensor) -> tuple[Tensor, Tensor]:
        """What the network gets instead of its inputs."""
        ...

    def gradients(self, loss_B: Tensor, patients: int) -> list[Tensor]:
        """The gradients of each trained parameter [patients, ...]."""
        ...

    def close(self) -> None:
        """Leaves the network as it was."""
        ...


@dataclass(frozen=True)
class Pass:
    """What goes through the network at once.

    Attributes:
        patients: their number; more than one needs gradients of each of them from one pass.
        all_views: whether a patient's views go together; otherwise one by one, and there is one patient.
    """

    patients: int = 1
    all_views: bool = False


ONE_VIEW = Pass()


class PrivateEngine(Engine):
    """DeepSpeed with one backward pass per step, of a gradient that is given to it.

    A forward pass goes through the bare network (DeepSpeed's hooks would reduce a gradient before it is clipped), in the configured
    precision. What reaches DeepSpeed is fp32 whatever that is, so that it also communicates in fp32: rounding after clipping would
    be a contribution that nobody has bounded.

    Args:
        module: the network; equal weights on every rank.
        config: sharding, precision, offload; there is one backward pass per step, so ``accumulation`` must be 1.
        betas: AdamW's decay rates.
        weight_decay: AdamW's decoupled decay.
        at_once: what goes through the network at once.
        per_sample: takes gradients of several patients from one pass; needed for nothing else.
        release: makes the weights that others get from the module's own.
    """

    def __init__(
        self, module: nn.Module, config: EngineConfig, *, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0,
        at_once: Pass = ONE_VIEW, per_sample: PerSampleGradients | None = None, release: Release = dict,
    ) -> None:  # fmt: skip
        assert config.accumulation == 1, "patients are accumulated before DeepSpeed"
        assert (at_once.patients > 1) == (per_sample is not None)
        assert at_once.patients == 1 or (at_once.all_views and config.zero_stage < 3 and config.precision == "fp32")
        self.at_once, self._each = at_once, per_sample
        fp32 = config.model_copy(update={"precision": "fp32"})
        super().__init__(module, fp32, 1, betas=betas, weight_decay=weight_decay, release=release)
        self._bf16 = config.precision == "bf16"
        self._trained = [p for p in module.parameters() if p.requires_grad]

    @property
    def in_step(self) -> bool:
        """Whether every rank must make equally many forward and backward passes: ZeRO-3 gathers weights in them."""
        return self._stage == 3

    @property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the trained parameters, whole."""
        return [getattr(p, "ds_shape", p.shape) for p in self._trained]

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return torch.device(self._engine.device)

    def __call__(self, input_BCXYZ: Tensor, noise_B: Tensor, *told: Mapping[str, Tensor], **kept: Tensor) -> Tensor:
        """The bare network's output in fp32."""
        if self._each is not None:
            input_BCXYZ, noise_B = self._each.inputs(input_BCXYZ, noise_B)
        with torch.autocast(input_BCXYZ.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            output: Tensor = self._module(input_BCXYZ, noise_B, *told, **kept)
        return output.float()

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """D loss / d weights as whole fp32 tensors, which nobody else sees. At ZeRO-3 a collective."""
        found = torch.autograd.grad(loss, self._trained, allow_unused=True)
        return [torch.zeros(s, device=loss.device) if g is None else g.float() for g, s in zip(found, self.shapes, strict=True)]

    def gradients_of(self, loss_B: Tensor, patients: int) -> Iterator[list[Tensor]]:
        """The gradient of each patient's mean loss, one after another; each may be changed, and is gone with the next.

        Args:
            loss_B: losses of one pass: as many views of one patient after another.
            patients: how many they are.
        """
        if self._each is None:
            assert patients == 1
            yield self.gradients(loss_B.mean())
            return
        every = self._each.gradients(loss_B, patients)
        for place in range(patients):
            yield [gradient[place] for gradient in every]

    def destroy(self) -> None:
        """Frees hooks, buffers and optimiser state."""
        if self._each is not None:
            self._each.close()
            self._each = None
        super().destroy()

    def give(self, gradients: Sequence[Tensor]) -> None:
        """Makes the mean of all ranks' gradients the one that :meth:`step` takes. A collective."""
        with self._whole():
            # The gradient of sum(p * g) is g.
            products = [(p * g.detach()).sum() for p, g in zip(self._trained, gradients, strict=True)]
            self.backward(torch.stack(products).sum())

    def _whole(self) -> AbstractContextManager[None]:
        return gathered(self._stage, self._trained)
