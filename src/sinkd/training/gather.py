"""Exchange rows and sums between the processes of a run."""

import gc

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """The number of processes that train together, at least 1."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes in the order of ranks, without a gradient.

    Args:
        rows: This process's rows, (n, ...); n may differ between processes and be 0.

    Returns:
        All rows, (sum of n, ...), and the place at which this process's rows begin.
    """
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=rows.device)
    counts[distributed.get_rank()] = len(rows)
    distributed.all_reduce(counts)
    sizes = counts.tolist()
    # Backends gather equal shapes only: pad the shorter parts, and cut them again.
    padded = rows.detach().new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    gathered = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return gathered, sum(sizes[: distributed.get_rank()])


def summed(values: Tensor, device: torch.device) -> Tensor:
    """The sum of `values` over all processes, with their dtype and device; `device` is the backend's."""
    total = values.to(device, copy=True)
    distributed.all_reduce(total)
    return total.to(values.device)


def leave_group() -> None:
    """Leave the process group, if there is one: its threads would abort the process at exit.

    A wrapped model refers to itself and to the group, which would keep the group alive until Python exits.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
