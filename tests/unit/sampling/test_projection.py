"""Song et al. 2022 as a guidance: against the published loop, written down beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Measurement, Operator, Problem
from volgen.core.registry import config_class
from volgen.core.rng import normal
from volgen.operators.inpaint import Config as Inpaint
from volgen.sampling.descent import Descent, down, sample
from volgen.sampling.guidances.projection import Config
from volgen.sampling.samplers import dpmpp_2m, euler

SHAPE, GRID = (6, 8, 4), [8.0, 3.0, 1.0, 0.3, 0.1]
TRUTH = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)
OPERATOR = Inpaint(axis="R", share=0.5).build(SHAPE, torch.device("cpu"))
SEEN = OPERATOR.apply(torch.ones(1, 1, *SHAPE)).bool()
PROBLEM = Problem(measurement=Measurement(OPERATOR, OPERATOR.apply(TRUTH)))


def denoise(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    """Neighbours matter, so what is measured reaches what is not."""
    blurred = torch.nn.functional.avg_pool3d(y, 3, 1, 1)
    return (0.5 * torch.tanh(y) + 0.5 * blurred) / (1 + sigma.view(-1, 1, 1, 1, 1) ** 2)


@pytest.mark.parametrize("kind", ["euler", "ddpm"])
def test_the_unmeasured_part_is_that_of_the_published_loop(kind: str) -> None:
    solver = config_class("volgen.sampling.samplers", kind)().build()  # type: ignore[attr-defined]
    options = {"seed": 4, "indices": [2], "shape": (1, *SHAPE), "problem": PROBLEM, "guidance": Config().build()}
    (found,) = sample(denoise, solver, down(GRID), **options)  # type: ignore[arg-type]
    x = normal((1, *SHAPE), 4, "start", 2)[None] * GRID[0]
    for number, (sigma, after) in enumerate(down(GRID)):
        z = normal((1, *SHAPE), 4, "guide", number, 2, 0)[None]
        x = torch.where(SEEN, TRUTH + sigma * z, x)  # the proximal step with lambda 1
        x0, kept = denoise(x, torch.tensor([sigma])), (after / sigma) ** (2 if solver.stochastic else 1)
        fresh = after * (1 - kept) ** 0.5 * normal((1, *SHAPE), 4, "step", number, 2)[None] if solver.stochastic else 0.0
        x = x0 + kept * (x - x0) + fresh
    expected = torch.where(SEEN, TRUTH, x)
    torch.testing.assert_close(found[None], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", [dpmpp_2m.Config().build(), euler.Config().build()])
def test_a_volume_ends_in_the_data(solver: euler.Euler) -> None:
    (found,) = sample(denoise, solver, down(GRID), seed=0, indices=[0], shape=(1, *SHAPE), problem=PROBLEM, guidance=Config().build())
    assert torch.equal(found[None][SEEN], TRUTH[SEEN])
    (free,) = sample(denoise, solver, down(GRID), seed=0, indices=[0], shape=(1, *SHAPE))
    assert (found - free)[None][~SEEN].abs().max() > 0.01, "and what is not measured follows"


def test_without_strength_or_data_it_is_the_prior() -> None:
    def draw(problem: Problem, strength: float) -> Tensor:
        guidance = Config(strength=strength).build()
        options = {"seed": 0, "indices": [0], "shape": (1, *SHAPE), "problem": problem, "guidance": guidance}
        return sample(denoise, euler.Config().build(), down(GRID), **options)[0]  # type: ignore[arg-type]

    (free,) = sample(denoise, euler.Config().build(), down(GRID), seed=0, indices=[0], shape=(1, *SHAPE))
    blind = Inpaint(share=0.0).build(SHAPE, torch.device("cpu"))
    assert torch.equal(draw(Problem(measurement=Measurement(blind, blind.apply(TRUTH))), 1.0), free), "a mask of zeros"
    assert torch.equal(draw(PROBLEM, 0.0), free), "lambda 0"


def test_what_it_cannot_have_is_refused_in_words() -> None:
    class Open(Operator):
        def apply(self, x_BCXYZ: Tensor) -> Tensor:
            return x_BCXYZ

        def adjoint(self, data: Tensor) -> Tensor:
            return data

    for problem, words in ((Problem(), "--operator KIND"), (Problem(measurement=Measurement(Open(), TRUTH)), "closed form")):
        with pytest.raises(UserError, match=words):
            Descent(denoise, euler.Config().build(), down(GRID), 0, (1, *SHAPE), torch.device("cpu"), problem, guidance=Config().build())
