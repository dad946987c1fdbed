"""The device that a benchmark measures: what it is called, waiting for it, and the most bytes that are held on it.

A benchmark calls `use` once, with what `--device` says; everything else here follows it.
"""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


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
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def wait() -> None:
    """Until the device has done what it was given; a CPU always has."""
    if on_cuda():
        torch.cuda.synchronize()


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
