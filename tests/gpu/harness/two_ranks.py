"""Sums 1 and 2 over two ranks that compute on one device: python two_ranks.py cuda | cpu, with the variables of torchrun."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
from torch import distributed

device = torch.device(sys.argv[1], 0) if sys.argv[1] == "cuda" else torch.device("cpu")
distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=30))
value = torch.tensor([1.0 + int(os.environ["RANK"])], device=device)
distributed.all_reduce(value)
print(f"sum {float(value)}", flush=True)
os._exit(0)
