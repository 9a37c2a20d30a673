"""Training in several processes, as started by `torchrun`: who am I, and the few exchanges that the loop needs."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks:
    """This process among the others. With one process every exchange is a no-op."""

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local = int(os.environ.get("LOCAL_RANK", "0"))
        self.joined = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def join(self, device: torch.device) -> None:
        """Meet the other processes: NCCL between GPUs, gloo between CPUs."""
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            self.joined = True

    def leave(self) -> None:
        """Part from the others. Models and optimizers of the caller should be gone by then."""
        if self.joined:
            gc.collect()  # tensors that outlive the process group make gloo crash at exit
            dist.destroy_process_group()
            self.joined = False

    def mean(self, gradients: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Average the gradients over the processes, in place, in one exchange; returns the averaged loss.

        The loss travels with them so that every process sees the same number and stops at the same step if it is not finite.
        """
        if self.world == 1:
            return loss
        flat = torch.cat([*(g.reshape(-1).float() for g in gradients), loss.detach().reshape(1).float()])
        dist.all_reduce(flat)
        flat /= self.world
        offset = 0
        for gradient in gradients:
            gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
            offset += gradient.numel()
        return flat[-1]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is true in any process."""
        if self.world == 1:
            return flag
        value = torch.tensor(int(flag), device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    def share(self, modules: Iterable[nn.Module], *, buffers_only: bool = False) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.world == 1:
            return
        for module in modules:
            for tensor in [*module.buffers(), *([] if buffers_only else module.parameters())]:
                dist.broadcast(tensor.data, 0)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier()
