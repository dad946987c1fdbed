"""Run trials on this machine, as many at a time as its resources allow."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import torch

from sinkd.errors import SinkdError, Terminated
from sinkd.sweep.trial import TrialT, follow


def run_local(
    trials: Sequence[TrialT],
    resources: Mapping[str, float],
    logs: Path,
    on_end: Callable[[TrialT, str], None],
    on_line: Callable[[TrialT, str], None],
) -> None:
    """Run trials in parallel, one thread per core.

    If `on_end` raises, or Ctrl-C or SIGTERM stops the command, the running trials get SIGTERM and each writes a
    checkpoint; the exception is raised again once all have ended.

    Args:
        trials: the trials, started in this order.
        resources: each trial's share of this machine: num_cpus (cores and threads), num_gpus (up to 1).
        logs: the folder for the trials' output.
        on_end: called with each ended trial, and "" or the reason for its failure.
        on_line: called with "" when a trial starts, then with each line of its output; from several threads.

    Raises:
        SinkdError: if this machine has no room for a trial.
        Terminated: if the command got SIGTERM.
    """
    rooms: SimpleQueue[dict[str, str]] = SimpleQueue()
    environments = _rooms(resources)
    for environment in environments:
        rooms.put(environment)
    started: list[subprocess.Popen[str]] = []
    stopped, lock = False, Lock()

    def run(trial: TrialT) -> str:
        room = rooms.get()
        try:
            with lock:
                if stopped:
                    return "stopped"
                started.append(process := trial.start(room))
            on_line(trial, "")
            with process:
                return follow(process, trial.log(logs), lambda line: on_line(trial, line))
        finally:
            rooms.put(room)

    with _sigterm_raises(), ThreadPoolExecutor(len(environments)) as threads:
        futures = {threads.submit(run, trial): trial for trial in trials}
        try:
            for future in as_completed(futures):
                on_end(futures[future], future.result())
        except BaseException:
            with lock:
                stopped = True
            for process in started:
                process.terminate()  # does nothing to one that has ended
            raise


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rooms(resources: Mapping[str, float]) -> list[dict[str, str]]:
    """The environments (threads and GPU) of the trials that this machine can run in parallel."""
    cpus, gpus = resources.get("num_cpus", 1), resources.get("num_gpus", 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = map(str, range(torch.cuda.device_count())) if visible is None else filter(None, visible.split(","))
    devices = list(there) if gpus else [""]
    by_cpu = [int(cores() / cpus)] if cpus else []
    by_gpu = [int(1 / gpus) * len(devices)] if gpus else []
    room = min(by_cpu + by_gpu, default=cores())
    if not room:
        asked = " and ".join(f"{n:g} {name}" for name, n in {"CPU": cpus, "GPU": gpus}.items() if n)
        raise SinkdError(f"a trial asks for {asked}, which this machine does not have; lower the sweep's resources")
    threads = str(max(1, int(cpus)))
    return [{"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} for i in range(room)]


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Terminated("stopped; the same command goes on from there")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
