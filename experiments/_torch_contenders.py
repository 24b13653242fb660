"""PyTorch's own ways to synchronise a gradient, beside ours where it is installed."""

from __future__ import annotations

import os
from typing import Any

from experiments._contenders import Shapes


class TorchStep:
    """One way of PyTorch, over its gloo, on CPU tensors."""

    temporary_bytes = None
    report = None

    def __init__(self, name: str, shapes: Shapes):
        import torch

        self.name, self._torch = name, torch
        self.seconds: list[float] = []
        self._ddp: Any = None
        self._flat = torch.zeros(sum(_size(shape) for shape in shapes))
        self._generator = torch.Generator()
        if name.startswith("torch DDP"):
            self._ddp = _ddp(shapes)

    def prepare(self, seed: int) -> None:
        """Makes what is to be synchronised."""
        if self._ddp is None:
            self._generator.manual_seed(seed)
            self._flat.uniform_(-1, 1, generator=self._generator)
        else:
            # The hook runs in backward, with a gradient that costs next to nothing.
            self._ddp.zero_grad()
            self._loss = self._ddp()

    def run(self) -> None:
        """Synchronises once; what comes out is on all processes."""
        dist = self._torch.distributed
        if self._ddp is not None:
            self._loss.backward()
        elif self.name == "torch all_reduce fp16":
            half = self._flat.half()
            dist.all_reduce(half)
            self._flat.copy_(half).div_(dist.get_world_size())
        else:
            dist.all_reduce(self._flat)
            self._flat.div_(dist.get_world_size())

    def close(self) -> None:
        """Frees what it holds."""
        self._flat = self._ddp = self._loss = None


TORCH = ("torch all_reduce", "torch all_reduce fp16", "torch DDP PowerSGD rank 2")


def start(rank: int, count: int, host: str, port: int, interface: str) -> bool:
    """Joins PyTorch's processes; returns False where it is not installed."""
    try:
        import torch.distributed as dist
    except (ImportError, OSError):
        return False
    os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{host}:{port}", rank=rank, world_size=count
    )
    return True


def stop() -> None:
    """Leaves PyTorch's processes."""
    import torch.distributed as dist

    dist.destroy_process_group()


def _size(shape: tuple[int, ...]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out


def _ddp(shapes: Shapes) -> Any:
    """Returns a module of such parameters whose gradients cross by PowerSGD."""
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

    class Parameters(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaves = torch.nn.ParameterList(
                torch.nn.Parameter(torch.randn(shape)) for shape in shapes
            )

        def forward(self) -> Any:
            return sum((p * p).sum() for p in self.leaves)

    # One bucket: over gloo, those of several cross in another order on each process.
    ddp = torch.nn.parallel.DistributedDataParallel(
        Parameters(), gradient_as_bucket_view=True, bucket_cap_mb=4096
    )
    state = powerSGD_hook.PowerSGDState(
        process_group=None, matrix_approximation_rank=2, start_powerSGD_iter=2
    )
    ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return ddp
