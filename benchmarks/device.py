"""The device that a benchmark measures: what it is called, waiting for it, and the most bytes that are held on it.

A benchmark calls `use` once, with what `--device` says; everything else here follows it.
"""

import argparse
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sinkd.transport.matmul import multiplies_bfloat16


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where everything is computed")


_chosen = "cpu"


def use(device: str, default: bool = True) -> None:
    """Measure on `device`; by `default` it is also where PyTorch makes tensors (data loaders bear no such default).

    A CPU is where it makes them anyway: a default that is set costs every operation a little, which a time would show.
    """
    global _chosen
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: PyTorch sees no CUDA device here")
    _chosen = device
    if default and device != "cpu":
        torch.set_default_device(device)


def on_cuda() -> bool:
    return _chosen == "cuda"


def described() -> str:
    """The device, and what a CPU computes with."""
    if on_cuda():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    short = ", bfloat16" if multiplies_bfloat16() else ""
    threads = f"{torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}{short}, {threads}"


def _processor() -> str:
    """The processor's name; where Linux tells, also its family and model, which many names leave open."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "cpu family" not in fields:
        return fields.get("model name") or platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"


def wait() -> None:
    """Until the device has done what it was given; a CPU always has."""
    if on_cuda():
        torch.cuda.synchronize()


def in_turns(
    works: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each work in each round. All take turns, so that what else the machine does strikes all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wait()
            started = clock()
            work()
            wait()
            seconds[name].append(clock() - started)
    return seconds


def peak_bytes(work: Callable[[], Any]) -> int:
    """Largest sum of tensor bytes held at once, beyond what was held before, by the allocator's own count."""
    if on_cuda():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
