"""Where and in which precision to compute."""

from __future__ import annotations

import torch

from limner.errors import UserError


def pick(name: str, local_rank: int = 0) -> torch.device:
    """The device called `name`; "auto" takes a GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name}: not to be had here ({str(error).splitlines()[0]}); try --device auto or cpu"
        ) from None
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are done by the hardware (in software they are slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()
    return False


def make_reproducible(device: torch.device) -> None:
    """Choose algorithms that give the same bits every time, so that a resumed run equals an uninterrupted one."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def _cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""
