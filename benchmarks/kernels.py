"""Transport on a GPU: the kernels beside what they replace, forward and backward.

    python -m benchmarks.kernels --device cuda --json kernels.json

- few classes: `SinkhornLoss.published` beside the algorithm as published (`benchmarks.loss`), eager, in the same
  process; and in a captured CUDA graph.
- 1,024 problems of 128 x 128, 20 iterations: `sinkhorn` beside its path in PyTorch, and beside `ot.batch` of POT, which
  is differentiated by autograd, where POT is installed.
- l1 of (128, 50257) bfloat16 logits beside `torch.cdist` of their float32 probabilities, with autograd.
- Lorentz of (512, 50257) bfloat16 logits, the whole loss, beside its path in PyTorch.
- semantic transport of 256 answer tokens, 64 likeliest tokens, 49,152 in the vocabulary, beside kl of the same logits.

A time is the median of forward and backward passes, by CUDA events (on a CPU by the clock), in which all ways take
turns. Memory is the most that the allocator held beyond what it held before, the gradient included. Ways whose results
are comparable also say how far their gradients are apart, relative to the first way's.
"""

from __future__ import annotations

import argparse
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmarks import device
from benchmarks.result import machine, publish, write
from torch import Tensor

from sinkd.losses import SinkhornLoss, kl, semantic_transport
from sinkd.report import Table
from sinkd.transport import sinkhorn

Loss = Callable[[Tensor], Tensor]


def milliseconds(work: Callable[[], Any]) -> float:
    if not device.on_cuda():
        started = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def place() -> str:
    """Where tensors are made: named each time, since a default device would slow every operation in eager mode."""
    return "cuda" if device.on_cuda() else "cpu"


def gradient(loss: Loss, point: Tensor) -> Tensor:
    return torch.autograd.grad(loss(point), point)[0]


def graph(loss: Loss, point: Tensor) -> Callable[[], None]:
    """Forward and backward captured once; a call replays them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            gradient(loss, point)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        gradient(loss, point)
    return captured.replay


class Comparison:
    """Ways to one loss, timed in turns; what fails is said and left out."""

    def __init__(self, name: str, seconds: float, comparable: bool = True):
        self.name, self.seconds, self.comparable = name, seconds, comparable
        self.works: dict[str, Callable[[], Any]] = {}
        self.found: dict[str, dict[str, float]] = {}
        self.first: Tensor | None = None

    def way(self, name: str, loss: Loss, point: Tensor, captured: bool = False) -> None:
        try:
            pulled = gradient(loss, point).double()
            peak = device.peak_bytes(lambda: gradient(loss, point))
            self.found[name] = {"megabytes": peak / 1e6, "of logits": peak / (point.numel() * point.element_size())}
            if self.first is None:
                self.first = pulled
            elif self.comparable:
                self.found[name]["apart"] = float((pulled - self.first).norm() / self.first.norm())
            self.works[name] = lambda: gradient(loss, point)
            if captured and device.on_cuda():
                self.works[f"{name}, graph"] = graph(loss, point)
                self.found[f"{name}, graph"] = {}
        except Exception as error:
            traceback.print_exc()
            print(f"SKIPPED {self.name}, {name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")

    def time(self) -> dict[str, dict[str, float]]:
        """Median milliseconds of each way: at least three rounds, and as many as `seconds` allow."""
        if not self.works:
            return {}
        taken: dict[str, list[float]] = {name: [] for name in self.works}
        started = time.perf_counter()
        while not all(len(each) >= 3 for each in taken.values()) or (
            time.perf_counter() - started < self.seconds and len(next(iter(taken.values()))) < 200
        ):
            for name, work in self.works.items():
                taken[name].append(milliseconds(work))
        for name, each in taken.items():
            self.found[name]["ms"] = statistics.median(each)
        return self.found


def few_classes(name: str, cost: str, batch: int, classes: int, seconds: float) -> Comparison:
    from benchmarks.loss import published

    torch.manual_seed(0)
    student, teacher = (2 * torch.randn(2, batch, classes, device=place())).unbind()
    student = student.clone().requires_grad_()
    compared = Comparison(name, seconds)
    compared.way("published", lambda x: published(cost)(x, teacher), student)
    compared.way("PyTorch", lambda x: SinkhornLoss.published(cost=cost, backend="torch")(x, teacher), student)
    loss = SinkhornLoss.published(cost=cost)
    compared.way("sinkd", lambda x: loss(x, teacher), student, captured=True)
    return compared


def problems(name: str, count: int, size: int, seconds: float) -> Comparison:
    torch.manual_seed(0)
    cost = torch.rand(count, size, size, device=place()).requires_grad_()
    compared = Comparison(name, seconds)
    if find_spec("ot") is None:
        print("SKIPPED POT: it is not installed")
    else:
        from ot.batch import solve_batch

        def by_pot(x: Tensor) -> Tensor:
            given: dict[str, Any] = {"max_iter": 20, "tol": 0, "method": "sinkhorn", "grad": "autodiff"}
            ones = x.new_ones(count, size)
            with torch.device(x.device):  # POT makes some of its tensors on the default device
                return solve_batch(x, 0.1, ones, ones, **given).value_linear.sum()

        compared.way("POT", by_pot, cost)
    for shown, backend in (("PyTorch", "torch"), ("sinkd", "auto")):
        compared.way(shown, lambda x, b=backend: sinkhorn(x, 0.1, 20, cost_bound=1.0, backend=b).distance.sum(), cost)
    return compared


def logits_of(rows: int, width: int) -> tuple[Tensor, Tensor]:
    """A student's and a teacher's logits by Zipf's law, bfloat16."""
    torch.manual_seed(0)
    frequency = -1.5 * torch.arange(10, width + 10, device=place()).log()[torch.randperm(width, device=place())]
    teacher = frequency + 1.5 * torch.randn(rows, width, device=place())
    student = teacher + 0.5 * torch.randn(rows, width, device=place())
    return student.bfloat16().requires_grad_(), teacher.bfloat16()


def wide_l1(name: str, rows: int, width: int, seconds: float) -> Comparison:
    student, teacher = logits_of(rows, width)
    weights = torch.randn(rows, rows, device=place())
    compared = Comparison(name, seconds)

    def by_cdist(x: Tensor) -> Tensor:
        p, q = (torch.softmax(side.float() / 2, -1) for side in (x, teacher))
        return (torch.cdist(p, q, p=1.0) * weights).sum()

    def by_kernel(x: Tensor) -> Tensor:
        loss = SinkhornLoss(cost="l1")
        return (loss._cost(loss._rows(x, teacher, None, None)) * weights).sum()

    compared.way("torch.cdist", by_cdist, student)
    compared.way("sinkd", by_kernel, student)
    return compared


def wide_lorentz(name: str, rows: int, width: int, seconds: float) -> Comparison:
    student, teacher = logits_of(rows, width)
    compared = Comparison(name, seconds)
    for shown, backend in (("PyTorch", "torch"), ("sinkd", "auto")):
        loss = SinkhornLoss(backend=backend)
        compared.way(shown, lambda x, each=loss: each(x, teacher), student)
    return compared


def semantic(name: str, rows: int, width: int, top_k: int, seconds: float) -> Comparison:
    student, teacher = logits_of(rows, width)
    embedding = torch.randn(width, 576, device=place())
    compared = Comparison(name, seconds, comparable=False)
    compared.way("kl", lambda x: kl(x, teacher, 1.0), student, captured=True)
    compared.way("semantic", lambda x: semantic_transport(x, teacher, embedding, top_k=top_k), student)
    return compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time of each row (at least 3 rounds)")
    parser.add_argument("--rehearse", action="store_true", help="small sizes, which say nothing about speed")
    parser.add_argument("--json", dest="out", type=Path, help="where the JSON goes")
    device.add_device(parser)
    given = parser.parse_args()
    device.use(given.device, default=False)
    # size of a batch, number and size of problems, width of the vocabulary
    many, count, size, width, rows = (32, 4, 8, 4200, 6) if given.rehearse else (512, 1024, 128, 50257, 512)
    works: dict[str, Callable[[str, float], Comparison]] = {}
    for cost in ("l1", "lorentz"):
        for batch, classes in ((16, 2), (32, 3), (128, 3), (512, 3)):
            if batch <= many:
                works[f"{cost} ({batch}, {classes})"] = partial(few_classes, cost=cost, batch=batch, classes=classes)
    works[f"{count} problems of {size} x {size}"] = partial(problems, count=count, size=size)
    works[f"l1 ({rows // 4}, {width})"] = partial(wide_l1, rows=rows // 4, width=width)
    works[f"semantic, {rows // 2} tokens"] = partial(
        semantic, rows=rows // 2, width=49152 if rows > 6 else width, top_k=64 if rows > 6 else 4
    )
    works[f"lorentz ({rows}, {width})"] = partial(wide_lorentz, rows=rows, width=width)
    table = Table(f"Forward and backward ({machine()})", ["", "way", "ms", "times faster", "MB", "of logits", "apart"])
    results: dict[str, Any] = {}
    for name, work in works.items():
        found = results[name] = work(name, seconds=given.seconds).time()
        if not found:
            continue
        base = next(iter(found.values()))["ms"]
        for way, figures in found.items():
            extra = [f"{figures[key]:{form}}" if key in figures else "" for key, form in COLUMNS.items()]
            table.add(name, way, f"{figures['ms']:.3f}", f"{base / figures['ms']:.1f}", *extra)
        write("kernels", given.out, rows=results)
    publish("kernels", given.out, table, rows=results)


COLUMNS = {"megabytes": ",.1f", "of logits": ".2f", "apart": ".1e"}

if __name__ == "__main__":
    main()
