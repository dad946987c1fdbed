"""Forward and backward of SinkhornLoss beside the algorithm as published and beside POT.

    python -m benchmarks.loss --out benchmarks/loss.json

Three ways to the same number, on the same logits, in the same process, one after the other in every round:

- sinkd: `SinkhornLoss.published(cost=...)`, in eager mode. On: checks of shapes and of non-finite logits, and
  differences in float64. Off: marginal errors (computed only when asked), debias, torch.compile.
- published: the algorithm written plainly: float32, cost as the published code computes it (l1 by `torch.cdist`,
  Lorentz by acosh of the clamped inner product, broadcast to (B, B, C + 1)), 20 times rows and columns divided by their
  sums, gradient by autograd through all of it.
- POT: the same cost, then `ot.sinkhorn2` on torch tensors for the same 20 iterations, no stopping test.
- compiled, on a GPU and for few classes: sinkd under `torch.compile(fullgraph=True, dynamic=True)`.

A time is the median over rounds: time of the processor with `--threads 1`, else time that passed. A ratio is the median
over rounds of the ratio within the round, so that other load on the machine affects all three alike. Memory is the
largest sum of tensor bytes alive beyond those alive before, by PyTorch's allocator, over one forward and backward.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from benchmarks import device
from torch import Tensor

from sinkd.losses import SinkhornLoss
from sinkd.transport.pairwise import FEW

SIZES = ((16, 2), (32, 3), (128, 3), (512, 3), (64, 32128), (128, 50257))
COSTS = ("l1", "lorentz")
TEMPERATURE, EPSILON, ITERATIONS, WEIGHT = 2.0, 0.1, 20, 0.001
Loss = Callable[[Tensor, Tensor], Tensor]


def published_cost(cost: str, p: Tensor, q: Tensor) -> Tensor:
    """Costs (B, B) of all pairs of rows (B, C), as the published code computes them."""
    if cost == "l1":
        return torch.cdist(p, q, p=1)
    x, y = lifted(p), lifted(q)
    signs = x.new_ones(x.shape[-1])
    signs[0] = -1
    inner = (x.unsqueeze(1) * y.unsqueeze(0) * signs).sum(-1)
    return torch.acosh(torch.clamp(-inner, min=1 + 1e-5))


def lifted(p: Tensor) -> Tensor:
    """Time and space (B, C + 1) of the exponential map at the origin, curvature -1."""
    r = p.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    return torch.cat([torch.cosh(r), torch.sinh(r) / r * p], -1)


def published(cost: str) -> Loss:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        w = published_cost(cost, torch.softmax(student / TEMPERATURE, -1), torch.softmax(teacher / TEMPERATURE, -1))
        plan = torch.exp(-w / EPSILON)
        for _ in range(ITERATIONS):
            plan = plan / plan.sum(1, keepdim=True)
            plan = plan / plan.sum(0, keepdim=True)
        return WEIGHT * (plan * w).sum()

    return loss


def pot(cost: str) -> Loss:
    import ot

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        w = published_cost(cost, torch.softmax(student / TEMPERATURE, -1), torch.softmax(teacher / TEMPERATURE, -1))
        ones = torch.ones(w.shape[0])
        return WEIGHT * ot.sinkhorn2(ones, ones, w, EPSILON, numItermax=ITERATIONS, stopThr=0, warn=False)

    return loss


def once(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    student.grad = None
    loss(student, teacher).backward()


@functools.cache
def compiled(cost: str) -> Loss:
    return torch.compile(SinkhornLoss.published(cost=cost), fullgraph=True, dynamic=True)


def extra_bytes(loss: Loss, student: Tensor, teacher: Tensor) -> int:
    """What a forward and backward pass holds at its peak beside the logits; the gradient counts."""
    student.grad = None  # which would be given back within, and count against what is held
    return device.peak_bytes(lambda: once(loss, student, teacher))


def seconds(loss: Loss, student: Tensor, teacher: Tensor, repeats: int) -> float:
    # one thread's own time leaves out what else the machine does meanwhile
    clock = time.process_time if torch.get_num_threads() == 1 and not device.on_cuda() else time.perf_counter
    device.wait()
    start = clock()
    for _ in range(repeats):
        once(loss, student, teacher)
    device.wait()
    return (clock() - start) / repeats


def measure(cost: str, batch: int, classes: int, seconds_each: float) -> dict:
    torch.manual_seed(0)
    student = torch.randn(batch, classes).mul_(2).requires_grad_()
    teacher = torch.randn(batch, classes).mul_(2)
    ways: dict[str, Loss] = {"sinkd": SinkhornLoss.published(cost=cost), "published": published(cost), "pot": pot(cost)}
    if device.on_cuda() and classes <= FEW:
        ways["compiled"] = compiled(cost)
    for way in ways.values():
        once(way, student, teacher)  # compiled now, and libraries loaded
    memory = {name: extra_bytes(way, student, teacher) for name, way in ways.items()}
    alone = {name: seconds(way, student, teacher, 1) for name, way in ways.items()}
    repeats = {name: max(1, min(50, int(0.05 / taken))) for name, taken in alone.items()}
    rounds: list[dict[str, float]] = []
    start = time.perf_counter()
    while len(rounds) < 3 or (time.perf_counter() - start < seconds_each and len(rounds) < 200):
        rounds.append({name: seconds(way, student, teacher, repeats[name]) for name, way in ways.items()})
    row: dict = {"cost": cost, "batch": batch, "classes": classes, "rounds": len(rounds)}
    for name in ways:
        row[f"{name}_ms"] = 1e3 * statistics.median(r[name] for r in rounds)
        row[f"{name}_mb"] = memory[name] / 1e6
    for other in ("published", "pot"):
        row[f"speedup_over_{other}"] = statistics.median(r[other] / r["sinkd"] for r in rounds)
    return row


def table(machine: dict, rows: list[dict]) -> str:
    ways = [name.removesuffix("_ms") for name in rows[0] if name.endswith("_ms")]
    shown = {"pot": "POT"}
    columns = ["cost", "B, C", *(f"{shown.get(name, name)} ms" for name in ways), "over published", "over POT"]
    columns += [f"{shown.get(name, name)} MB" for name in ways]
    lines = [f"{key}: {value}" for key, value in machine.items()]
    lines += ["", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for r in rows:
        times = [f"{r[f'{name}_ms']:.3g}" if f"{name}_ms" in r else "" for name in ways]
        ratios = [f"{r[f'speedup_over_{name}']:.2f}x" for name in ("published", "pot")]
        memory = [f"{r[f'{name}_mb']:.3g}" if f"{name}_mb" in r else "" for name in ways]
        cells = [r["cost"], f"{r['batch']}, {r['classes']}", *times, *ratios, *memory]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/loss.json"), help="where the JSON goes")
    parser.add_argument("--seconds", type=float, default=5.0, help="measuring time of each line (at least 3 rounds)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, for all three")
    parser.add_argument("--max_classes", type=int, default=max(c for _, c in SIZES), help="leave out wider sizes")
    device.add_device(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device.use(arguments.device)
    machine = {
        "command": " ".join(["python -m benchmarks.loss", *sys.argv[1:]]),
        "machine": device.described(),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, POT {version('POT')}",
        "sinkd": "eager; checks of shapes and values on; marginal errors off; float64 differences, float32 after",
    }
    sizes = [size for size in SIZES if size[1] <= arguments.max_classes]
    rows = [measure(cost, *size, arguments.seconds) for cost in COSTS for size in sizes]
    print(table(machine, rows))
    arguments.out.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
