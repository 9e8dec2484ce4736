"""What this machine is, and the stores that the other parts train on."""

from __future__ import annotations

import json
import time

import pytest
import torch
from part import Part, volgen

from volgen.data.store import Store

LIMIT = {"cuda": 100, "cpu": 180}
TURN = 0
pytestmark = pytest.mark.gpu
TIMES = 10


@pytest.mark.mutant.with_args(lambda patch: patch.setattr("volgen.commands.doctor.doctor.LIBRARIES", ("no-such-library",)))
def test_the_doctor_misses_nothing(part: Part) -> None:
    found = json.loads(volgen("doctor", "--json"))
    assert found["ok"]
    for finding in found["findings"]:
        part.say(finding["name"], finding["found"])


@pytest.mark.mutant.with_args(lambda patch: patch.setattr(torch, "matmul", lambda a, b: torch.zeros(len(a), b.shape[1])))
def test_the_device_computes(part: Part) -> None:
    """A product in bf16 against one in float64; on a GPU also how fast it multiplies and copies."""
    edge = 8192 if part.device == "cuda" else 128
    a, b = (torch.randn(edge, edge, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    product = torch.matmul(a.to(part.device, torch.bfloat16), b.to(part.device, torch.bfloat16))[:8].double().cpu()
    exact = a[:8].double() @ b.double()
    assert float((product - exact).norm() / exact.norm()) < 1e-2
    if part.device != "cuda":
        return
    assert torch.cuda.is_bf16_supported()
    properties = torch.cuda.get_device_properties(0)
    part.say("GPU", properties.name)
    part.say("memory of the GPU", properties.total_memory / 2**30, "GiB")
    part.say("compute capability", f"{properties.major}.{properties.minor}, {properties.multi_processor_count} multiprocessors")
    libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, NCCL {torch.cuda.nccl.version()}"
    part.say("torch", f"{torch.__version__}, {libraries}")
    for dtype in (torch.bfloat16, torch.float32):
        x, y = a.to("cuda", dtype), b.to("cuda", dtype)
        part.say(f"matrix product, {edge}, {dtype}", 2e-12 * edge**3 / _seconds(lambda x=x, y=y: x @ y), "TFLOP/s")
    big = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    part.say("copy on the device, read and written", 2e-9 * big.numel() / _seconds(lambda: big.clone()), "GB/s")
    host, pinned = torch.empty(2**28, dtype=torch.uint8), torch.empty(2**28, dtype=torch.uint8).pin_memory()
    part.say("copy to the device, pageable", 1e-9 * host.numel() / _seconds(lambda: host.to("cuda")), "GB/s")
    part.say("copy to the device, pinned", 1e-9 * host.numel() / _seconds(lambda: pinned.to("cuda", non_blocking=True)), "GB/s")


@pytest.mark.mutant.with_args(lambda patch: patch.setattr(Store, "read_unit", lambda self, record: torch.zeros(record.shape).numpy()))
def test_the_stores_hold_brains(part: Part) -> None:
    for name, people in (("STORE", part.sizes.people), ("LARGE", part.sizes.large_people)):
        store = Store.open(str(part.work / name))
        assert len({record.patient for record in store.records}) == people
        for record in store.records[:2]:
            unit = torch.as_tensor(store.read_unit(record))
            assert 0.0 <= float(unit.min()) < 0.1 < float(unit.max()) <= 1.0


def _seconds(work: object) -> float:
    assert callable(work)
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(TIMES):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / TIMES
