"""The processes that train one network together: those of ``torchrun``, or this one alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Workers:
    """This process among those that train.

    Every process computes a share of each batch; gradients are averaged over all of them before each step, so that all take the same
    one. BatchNorm sees a process's own share alone, and its running statistics are those of the first process.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that validates, writes files and talks."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch; all parts have the same size."""
        return batch[self.rank :: self.count]

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients that are averaged over all processes; its weights become those of the first."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def total(self, *values: float) -> list[float]:
        """Sums over all processes, the same in each. Waits for all."""
        if self.count == 1:
            return list(values)
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        summed = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(summed)
        return [float(value) for value in summed]


@contextmanager
def join_workers(device: torch.device) -> Iterator[tuple[Workers, torch.device]]:
    """Join the other processes, if ``torchrun`` started this one; yields this one's place and its device.

    NCCL connects processes on GPUs, one GPU each, gloo those on CPUs.
    """
    if not distributed.is_torchelastic_launched():
        yield Workers(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
