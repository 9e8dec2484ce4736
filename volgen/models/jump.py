"""Jumps along the probability flow, from any noise level to any lower one (Song et al. 2023; Kim et al. 2024).

The skip path is the flow of a Gaussian in closed form (:attr:`volgen.models.denoiser.Preconditioner.flow_map`), and a network corrects it:

    f(x, s -> s') = flow(x, s -> s') + (1 - s'/s) q(s) F(inputs, s)

with inputs, q and F of the preconditioned denoiser D = E + q F. So f(x, s -> s) = x by construction, an untrained network already draws
volumes of the Gaussian in one jump, and with the weights of a denoiser the correction is Euler's step of what D is not Gaussian in.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser
from volgen.models.denoiser import Preconditioner
from volgen.models.haar import analyse


class Jump:
    """The function f of this module.

    Args:
        denoise: the network behind the preconditioner: D.
        preconditioner: that of what ``denoise`` is asked about; it has a ``flow_map``.
    """

    def __init__(self, denoise: Denoiser, preconditioner: Preconditioner) -> None:
        assert preconditioner.flow_map is not None, "there is nothing to jump along"
        self._denoise, self._preconditioner = denoise, preconditioner

    def __call__(self, x_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor, given: Given = NOTHING) -> Tensor:
        """The volumes at ``to_B`` on the paths that lead through ``x_BCXYZ`` at ``sigma_B``; what does not move stays, bit for bit.

        Args:
            x_BCXYZ: noisy volumes.
            sigma_B: their noise levels, positive.
            to_B: lower ones, 0 for clean volumes, or the same.
            given: what is known beside the volumes.
        """
        known = self._preconditioner.told(given)
        assert known.flow_map is not None, "what is told makes no other kind of it"
        correction = self._denoise(x_BCXYZ, sigma_B, given) - known.expected(x_BCXYZ, sigma_B)
        return known.flow_map(x_BCXYZ, sigma_B, to_B) + (1.0 - to_B / sigma_B)[:, None, None, None, None] * correction

    def missed(self, error_BCXYZ: Tensor, sigma_B: Tensor, to_B: Tensor, detail: float) -> Tensor:
        """Mean squares [B] of errors at the ends of jumps, in units of the mean square of what the network's output is multiplied with.

        Args:
            error_BCXYZ: errors.
            sigma_B: where jumps begin.
            to_B: where they end.
            detail: the finest bands of a Haar pyramid, which only voxels of full resolution show, count 1 + ``detail`` times.
        """
        x, y, z = (edge // 2 * 2 for edge in error_BCXYZ.shape[2:])
        fine = analyse(error_BCXYZ[:, :, :x, :y, :z])[:, error_BCXYZ.shape[1] :].square().sum(dim=(1, 2, 3, 4))
        squares = error_BCXYZ.square().mean(dim=(1, 2, 3, 4)) + detail * fine / error_BCXYZ[0].numel()
        return squares * self._preconditioner.weight(sigma_B) / (1.0 - to_B / sigma_B).square()


class JumpingDenoiser:
    """What jumps as a :class:`~volgen.core.protocols.Denoiser`: that with which a straight step to where a jump ends is the jump.

    From f(x, s -> s') = D + s'/s (x - D) follows D = (f - s'/s x) / (1 - s'/s); where jumps end at 0 it is f.

    Args:
        jump: the jump.
        end: noise level -> where a jump from it ends, lower.
    """

    def __init__(self, jump: Jump, end: Callable[[float], float]) -> None:
        self._jump, self._end = jump, end

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """Returns D by the equation above."""
        to_B = sigma_B.new_tensor([self._end(sigma) for sigma in sigma_B.tolist()])
        left = (to_B / sigma_B)[:, None, None, None, None]
        return (self._jump(y_BCXYZ, sigma_B, to_B, given) - left * y_BCXYZ) / (1.0 - left)
