"""The expert bank: every noise level goes to its owner, few experts are resident, and each is loaded once."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from volgen.core.errors import UserError
from volgen.core.files import sha256
from volgen.core.given import NOTHING
from volgen.core.registry import config_class, kinds
from volgen.core.span import tile
from volgen.experts import bank as bank_module
from volgen.experts.bank import ExpertBank
from volgen.experts.ensemble import Ensemble, ExpertRecord
from volgen.sampling import descent

GRID = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)


class Tag(nn.Module):
    """Returns a number that says which expert it is."""

    built = 0

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((1,), -1.0))
        Tag.built += 1

    def forward(self, y: Tensor) -> Tensor:
        assert not self.training
        return torch.zeros_like(y) + self.value


def wrap(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda y, sigma, given=NOTHING: module(y)


@dataclass(frozen=True)
class Made:
    """A maker of experts of one model."""

    build: Callable[[], nn.Module] = Tag
    wrap: Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]] = wrap


def make(directory: Path, count: int = len(GRID)) -> Ensemble:
    records = []
    for index, span in enumerate(tile(GRID, count)):
        path = directory / f"{index}.safetensors"
        save_file({"value": torch.full((1,), float(index))}, path)
        records.append(ExpertRecord(index, span.low, span.high, path.name, sha256(path), 1, 1, None))
    return Ensemble(tuple(records), GRID[-1], GRID[0], GRID)


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[Ensemble]:
    Tag.built = 0
    return make(tmp_path)  # type: ignore[return-value]


def open_bank(ensemble: Ensemble, directory: Path, **options: object) -> ExpertBank:
    return ExpertBank(ensemble, directory, [Made()] * len(ensemble.experts), **options)  # type: ignore[arg-type, list-item]


def volumes(*sigmas: float) -> tuple[Tensor, Tensor]:
    return torch.zeros(len(sigmas), 1, 2, 2, 2), torch.tensor(sigmas)


def test_each_noise_level_goes_to_its_owner(ensemble: Ensemble, tmp_path: Path) -> None:
    with open_bank(ensemble, tmp_path) as bank:
        for index, sigma in enumerate(reversed(GRID)):
            assert bank(*volumes(sigma)).unique().tolist() == [index]
        assert bank(*volumes(1e-4)).unique().tolist() == [0]


def test_batch_of_several_owners_is_routed_by_row(ensemble: Ensemble, tmp_path: Path) -> None:
    with open_bank(ensemble, tmp_path) as bank:
        found = bank(*volumes(0.5, 8.0, 0.25, 0.5))
    assert found.shape == (4, 1, 2, 2, 2)
    assert found[:, 0, 0, 0, 0].tolist() == [1, 5, 0, 1]


def test_sigma_max_survives_float32_and_more_is_refused(tmp_path: Path) -> None:
    grid = (26.7, 1.0)  # float32 rounds it upwards
    assert float(torch.tensor(grid[0])) > grid[0]
    path = tmp_path / "0.safetensors"
    save_file({"value": torch.zeros(1)}, path)
    span = tile(grid, 1)[0]
    ensemble = Ensemble((ExpertRecord(0, span.low, span.high, path.name, sha256(path), 1, 1, None),), 1.0, grid[0], grid)
    with open_bank(ensemble, tmp_path) as bank:
        assert bank(*volumes(grid[0])).unique().tolist() == [0]
        with pytest.raises(ValueError, match="no expert owns sigma"):
            bank(*volumes(27.0))


@pytest.mark.parametrize("kind", kinds("volgen.sampling.samplers"))
def test_sampling_loads_each_expert_once_and_keeps_two(ensemble: Ensemble, tmp_path: Path, kind: str) -> None:
    most = 0
    with open_bank(ensemble, tmp_path, capacity=2) as bank:

        def watched(y: Tensor, sigma: Tensor) -> Tensor:
            nonlocal most
            x0 = bank(y, sigma)
            most = max(most, len(bank.resident))
            return x0

        sampler = config_class("volgen.sampling.samplers", kind)().build()  # type: ignore[attr-defined]
        descent.sample(watched, sampler, descent.down(GRID), seed=0, indices=range(5), shape=(1, 2, 2, 2))
        assert bank.loads == [5, 4, 3, 2, 1, 0]
    assert most == 2
    assert Tag.built == 2, "storage is used again, not allocated for every expert"


def test_storage_is_used_again_by_experts_of_the_same_model_only(ensemble: Ensemble, tmp_path: Path) -> None:
    class Wide(Tag):
        """Another model, whose answers tell."""

        def forward(self, y: Tensor) -> Tensor:
            return super().forward(y) + 100.0

    wide, tag = Made(Wide), Made()
    makers: Any = [tag, tag, wide, wide, tag, tag]
    for capacity in (1, 2, 3):
        Tag.built = 0
        with ExpertBank(ensemble, tmp_path, makers, capacity=capacity) as bank:
            for sigma in (*GRID, 0.5, 8.0, 2.0):
                index = GRID[::-1].index(sigma)
                assert bank(*volumes(sigma)).unique().tolist() == [index + 100.0 * (index in (2, 3))]
                assert len(bank.resident) <= capacity
            found = bank(*volumes(0.25, 1.0, 8.0))
        assert found[:, 0, 0, 0, 0].tolist() == [0.0, 102.0, 5.0]
        assert Tag.built > capacity, "storage of one model is no storage of another"


def test_capacity_one_holds_one(ensemble: Ensemble, tmp_path: Path) -> None:
    with open_bank(ensemble, tmp_path, capacity=1) as bank:
        for sigma in (8.0, 8.0, 0.25, 8.0):
            bank(*volumes(sigma))
            assert len(bank.resident) == 1
        assert bank.loads == [5, 0, 5]


def test_the_least_recently_used_expert_leaves(ensemble: Ensemble, tmp_path: Path) -> None:
    with open_bank(ensemble, tmp_path, capacity=3, levels=[8.0, 4.0, 2.0, 1.0]) as bank:
        for sigma in (8.0, 4.0, 8.0, 2.0):
            assert bank(*volumes(sigma)).unique().tolist() == [GRID[::-1].index(sigma)]
        assert bank.resident == [5, 3, 2], "and the next one is on its way"
        assert bank.loads == [5, 4, 3]


def test_levels_that_do_not_go_down_are_right_too(ensemble: Ensemble, tmp_path: Path) -> None:
    with open_bank(ensemble, tmp_path) as bank:
        for sigma in (0.25, 8.0, 0.5, 2.0, 4.0, 0.25, 0.25, 8.0):
            assert bank(*volumes(sigma)).unique().tolist() == [GRID[::-1].index(sigma)]
            assert len(bank.resident) <= 2
    assert Tag.built == 2


def test_the_next_expert_is_loaded_while_one_works(ensemble: Ensemble, tmp_path: Path) -> None:
    with open_bank(ensemble, tmp_path) as bank:
        bank(*volumes(8.0))
        bank._reader.submit(int).result()  # the thread has done what it was given
        (tmp_path / "4.safetensors").unlink()
        assert bank(*volumes(4.0)).unique().tolist() == [4]


def test_new_storage_is_filled_after_all_that_was_asked_for_when_it_was_made(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a GPU it may be what a network just freed, whose kernels are still to run.
    order: list[str] = []
    make_blank, bank = bank_module.blank, open_bank(ensemble, tmp_path)

    def blank(*arguments: Any) -> nn.Module:
        order.append("made")
        return make_blank(*arguments)

    @contextmanager
    def copying(released: str) -> Iterator[None]:
        order.append(f"filled after {released}")
        yield

    monkeypatch.setattr(bank_module, "blank", blank)
    monkeypatch.setattr(bank._copier, "released", lambda: order[-1] if order else "nothing")
    monkeypatch.setattr(bank._copier, "copying", copying)
    with bank:
        bank(*volumes(0.4))
    assert order[:2] == ["made", "filled after made"]


def test_storage_of_what_was_read_ahead_in_vain_is_given_away_after_its_copies(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A GPU may still be copying to it when its thread is done.
    order: list[str] = []
    with open_bank(ensemble, tmp_path) as bank:
        bank(*volumes(8.0))  # and the one below is on its way
        usable = bank._usable
        monkeypatch.setattr(bank._copier, "wait", lambda: order.append("waited"))
        monkeypatch.setattr(bank, "_usable", lambda slot, index: order.append("given away") or usable(slot, index))
        bank(*volumes(0.4))
    assert order[:2] == ["waited", "given away"]


def test_matrices_may_be_narrow_and_vectors_stay(tmp_path: Path) -> None:
    path = tmp_path / "0.safetensors"
    source = nn.Linear(3, 2)
    save_file(source.state_dict(), path)
    span = tile(GRID, 1)[0]
    ensemble = Ensemble((ExpertRecord(0, span.low, span.high, path.name, sha256(path), 8, 1, None),), GRID[-1], GRID[0], GRID)
    built: list[nn.Module] = []

    def build() -> nn.Module:
        built.append(nn.Linear(3, 2))
        return built[-1]

    made: Any = Made(build, lambda module: lambda y, sigma, given=NOTHING: y)
    with ExpertBank(ensemble, tmp_path, [made], matrices=torch.bfloat16) as bank:
        bank(*volumes(1.0))
    assert torch.equal(built[0].weight, source.weight.bfloat16())
    assert torch.equal(built[0].bias, source.bias)


def test_only_the_next_visited_expert_is_read_ahead(ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def recorded(path: Path, **options: Any) -> str:
        read.append(path.name)
        return sha256(path, **options)

    monkeypatch.setattr("volgen.core.files.sha256", recorded)
    with open_bank(ensemble, tmp_path, levels=[8.0, 2.0, 0.25]) as bank:
        bank(*volumes(8.0))
        bank._reader.submit(int).result()  # the thread has done what it was given
        assert read == ["5.safetensors", "3.safetensors"]
        bank(*volumes(2.0))
        bank(*volumes(0.25))
        bank._reader.submit(int).result()
        assert read == ["5.safetensors", "3.safetensors", "0.safetensors"], "each file is checked once"


@pytest.mark.parametrize("path", [GRID[::-1], (*GRID, *GRID[-2::-1])])
def test_the_next_expert_on_the_path_is_read_ahead_whichever_way_it_goes(
    ensemble: Ensemble, tmp_path: Path, path: tuple[float, ...]
) -> None:
    with open_bank(ensemble, tmp_path, levels=path) as bank:
        for here, following in itertools.pairwise(path):
            assert bank(*volumes(here)).unique().tolist() == [GRID[::-1].index(here)]
            assert GRID[::-1].index(following) in bank.resident
        bank(*volumes(path[-1]))
    expected = [GRID[::-1].index(sigma) for sigma in path]
    assert bank.loads == (expected if len(path) == len(GRID) else [*expected[:6], *expected[7:]]), (
        "where it turns, the next one is still there"
    )


class Scale(nn.Module):
    """x0 = value * y^2, so that its gradient needs the weight and the volume."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(1))

    def forward(self, y: Tensor) -> Tensor:
        return self.value * y.square()


def scales(ensemble: Ensemble) -> Any:
    """The makers of experts that are :class:`Scale`."""
    return [Made(Scale)] * len(ensemble.experts)


@pytest.mark.parametrize("capacity", [1, 2])
def test_an_expert_is_not_overwritten_while_a_gradient_needs_it(ensemble: Ensemble, tmp_path: Path, capacity: int) -> None:
    with ExpertBank(ensemble, tmp_path, scales(ensemble), capacity=capacity) as bank:
        y = torch.full((1, 1, 2, 2, 2), 3.0, requires_grad=True)
        results = [bank(y, torch.tensor([sigma])) for sigma in GRID]
        for index, x0 in zip(reversed(range(len(GRID))), results, strict=True):
            assert x0.unique().tolist() == [9.0 * index]
            (slope,) = torch.autograd.grad(x0.sum(), y)
            assert slope.unique().tolist() == [6.0 * index]
        assert len(bank._resident) == len(GRID), "all were needed"


def test_storage_goes_back_when_gradients_are_done(ensemble: Ensemble, tmp_path: Path) -> None:
    with ExpertBank(ensemble, tmp_path, scales(ensemble), capacity=2, levels=[8.0]) as bank:
        y = torch.ones(1, 1, 2, 2, 2, requires_grad=True)
        kept = [bank(y, torch.tensor([sigma])) for sigma in GRID[:4]]
        assert len(bank._resident) == 4
        del kept
        gc.collect()
        bank(y, torch.tensor([GRID[4]]))
        assert len(bank._resident) == 2


def test_no_graph_is_kept_where_no_gradient_is_asked_for(ensemble: Ensemble, tmp_path: Path) -> None:
    with ExpertBank(ensemble, tmp_path, scales(ensemble)) as bank:
        y = torch.ones(1, 1, 2, 2, 2)
        assert not bank(y, torch.tensor([8.0])).requires_grad
        with torch.no_grad():
            assert not bank(y.requires_grad_(), torch.tensor([8.0])).requires_grad


def test_changed_weights_are_refused_by_name(ensemble: Ensemble, tmp_path: Path) -> None:
    path = tmp_path / "3.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with open_bank(ensemble, tmp_path) as bank:
        assert bank(*volumes(8.0)).unique().tolist() == [5]
        with pytest.raises(UserError, match=r"3\.safetensors: has SHA-256"):
            bank(*volumes(2.0))


def test_after_a_damaged_file_the_other_experts_are_still_right(ensemble: Ensemble, tmp_path: Path) -> None:
    (tmp_path / "3.safetensors").write_bytes(b"")
    for capacity in (1, 2):
        with open_bank(ensemble, tmp_path, capacity=capacity) as bank:
            assert bank(*volumes(4.0)).unique().tolist() == [4]
            with pytest.raises(UserError, match=r"3\.safetensors"):
                bank(*volumes(2.0))
            for sigma in (4.0, 1.0, 8.0):
                assert bank(*volumes(sigma)).unique().tolist() == [GRID[::-1].index(sigma)]
                assert len(bank.resident) <= capacity


def test_missing_weights_are_refused_by_name(ensemble: Ensemble, tmp_path: Path) -> None:
    (tmp_path / "0.safetensors").unlink()
    with open_bank(ensemble, tmp_path) as bank, pytest.raises(UserError, match=r"0\.safetensors: there is no such file"):
        bank(*volumes(0.25))


@pytest.mark.parametrize("tensors", [{"other": torch.zeros(1)}, {"value": torch.zeros(3)}])
def test_weights_of_another_network_are_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "0.safetensors"
    save_file(tensors, path)
    span = tile(GRID, 1)[0]
    ensemble = Ensemble((ExpertRecord(0, span.low, span.high, path.name, sha256(path), 1, 1, None),), GRID[-1], GRID[0], GRID)
    with open_bank(ensemble, tmp_path) as bank, pytest.raises(UserError, match="does not hold the weights of this network"):
        bank(*volumes(1.0))


def test_no_gradient_is_kept(ensemble: Ensemble, tmp_path: Path) -> None:
    with open_bank(ensemble, tmp_path) as bank:
        assert not bank(*volumes(1.0)).requires_grad
