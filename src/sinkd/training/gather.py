"""What the processes of a run tell each other beside gradients: rows, and sums; and how they part."""

import gc

import torch
from torch import Tensor, distributed


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, (sum of n, ...) in the order of ranks, and where this process's (n, ...) begin.

    Counts may differ, and be 0. No gradient flows: whoever needs one puts it together himself.
    """
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=rows.device)
    counts[distributed.get_rank()] = len(rows)
    distributed.all_reduce(counts)
    sizes = counts.tolist()
    # Backends gather equal shapes only: shorter parts are padded, and cut again.
    padded = rows.detach().new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    gathered = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return gathered, sum(sizes[: distributed.get_rank()])


def summed(values: Tensor, device: torch.device) -> Tensor:
    """The sum of a tensor over all processes, in its own type and on its own device; `device` is the backend's."""
    total = values.to(device, copy=True)
    distributed.all_reduce(total)
    return total.to(values.device)


def leave_group() -> None:
    """Leave the process group, where there is one, before the process ends: its threads would abort it then.

    A wrapped model refers to itself and to the group, and would hold it for as long as Python does.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
