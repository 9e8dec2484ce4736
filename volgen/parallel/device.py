"""Where a command that was asked for a device computes."""

from __future__ import annotations

import torch

from volgen.core.errors import UserError


def keep_fp32() -> None:
    """Has GPUs convolve fp32 numbers in fp32: of its own accord torch rounds them to the ten bits of TF32, for which nobody has asked."""
    torch.backends.cudnn.allow_tf32 = False


def usable_device(name: str | None) -> torch.device:
    """The device asked for, after it held and gave back a number: a name alone does not say that there is such a device.

    Args:
        name: PyTorch's spelling; None takes a GPU if there is one.

    Raises:
        UserError: PyTorch cannot compute there.
    """
    keep_fp32()
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    # PyTorch has no one error for this: a build without CUDA asserts, a backend that is no part of it fails to import.
    except (RuntimeError, AssertionError, ImportError, AttributeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        expected = "a device of this machine that PyTorch can compute on: cpu"
        if torch.cuda.is_available():
            expected += ", " + ", ".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        raise UserError("--device", f"'{name}' cannot be used ({reason})", expected) from None
    # With its number: which GPU is meant without one is up to each thread.
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device


def device_of_rank(name: str | None, own: torch.device) -> torch.device:
    """The device of one of several ranks.

    Args:
        name: what was asked for, the same on all ranks; None: a GPU if there is one.
        own: what the launch gave to this rank.

    Raises:
        UserError: PyTorch cannot compute there, or it is one GPU for all ranks.
    """
    if name in (None, own.type):
        return own
    device = usable_device(name)
    if device.type == "cuda" and torch.cuda.device_count() > 1:  # not where each task sees its own as number 0
        raise UserError("--device", f"'{name}' is one GPU for all ranks", "cuda (each rank has one of its own) or cpu")
    return device
